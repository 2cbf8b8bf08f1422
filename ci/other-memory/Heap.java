import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Random;

/** A program with a heap of records, maps, lists, arrays and strings, some of which change. */
public class Heap {
    record Customer(long number, String name, double score, List<Integer> tags) {}

    public static void main(String[] arguments) throws InterruptedException {
        var random = new Random(7);
        var customers = new HashMap<String, Customer>();
        for (int i = 0; i < 350_000; i++) {
            var tags = new ArrayList<Integer>();
            for (int k = 0; k < 4; k++) tags.add(random.nextInt(100_000));
            var name = "customer-" + Long.toHexString(random.nextLong());
            customers.put(name, new Customer(i, name, random.nextGaussian(), tags));
        }
        var arrays = new ArrayList<long[]>();
        for (int i = 0; i < 20_000; i++) {
            var array = new long[100];
            for (int k = 0; k < array.length; k++) array[k] = k % 3 == 0 ? random.nextLong() : random.nextInt(1000);
            arrays.add(array);
        }
        var texts = new ArrayList<StringBuilder>();
        for (int i = 0; i < 30_000; i++) {
            var text = new StringBuilder();
            for (int k = 0; k < 20; k++) text.append("field").append(k).append('=').append(random.nextInt(10_000)).append(';');
            texts.add(text);
        }
        System.out.println("READY");
        while (true) {
            for (int i = 0; i < 2000; i++) {
                var name = "customer-" + random.nextInt();
                customers.put(name, new Customer(i, name, random.nextDouble(), List.of(1, 2)));
            }
            Thread.sleep(1000);
        }
    }
}
