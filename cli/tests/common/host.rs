//! A made-up Xen host: domains are files, `xl` is a script. For error paths only: what real xl
//! and real guests do is tested on real Xen.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{Place, comio, sample};

/// The guest that every host has.
pub const GUEST: &str = "web";
/// Its uuid.
pub const UUID: &str = "11111111-2222-4333-8444-555555555555";
/// Its number.
pub const ID: u32 = 7;

/// Nothing here takes longer, however busy the machine.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Host {
    pub place: Place,
}

impl Host {
    /// A host where [`GUEST`] runs.
    pub fn new() -> Self {
        let place = Place::new();
        for directory in ["xen", "xen/domains", "images", "state"] {
            fs::create_dir(place.path(directory)).expect("writable");
        }
        let host = Self { place };
        host.set("stream", save_file(GUEST, UUID));
        host.set("next-id", "20");
        host.add(0, "Domain-0", "r-----", "00000000-0000-0000-0000-000000000000");
        host.add(ID, GUEST, "-b----", UUID);
        host
    }

    /// Adds or changes a domain.
    pub fn add(&self, id: u32, name: &str, state: &str, uuid: &str) {
        self.set(&format!("domains/{id}"), format!("{name}\t128\t{state}\t4.0\t{uuid}\n"));
    }

    /// Makes [`GUEST`] have used more processor time.
    pub fn let_it_run(&self) {
        self.set(&format!("domains/{ID}"), format!("{GUEST}\t128\t--p---\t4.3\t{UUID}\n"));
    }

    /// Writes one of the script's files.
    pub fn set(&self, file: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.xen(file), contents).expect("writable");
    }

    /// Removes one of the script's files.
    pub fn clear(&self, file: &str) {
        let _ = fs::remove_file(self.xen(file));
    }

    fn xen(&self, file: &str) -> String {
        self.place.path(&format!("xen/{file}"))
    }

    /// An image's path.
    pub fn image(&self, name: &str) -> String {
        self.place.path(&format!("images/{name}"))
    }

    /// The program, ready for arguments, on this host.
    pub fn comio(&self) -> Command {
        let mut command = comio();
        command
            .env("COMIO_XL", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-xl.sh"))
            .env("COMIO_STATE_DIR", self.place.path("state"))
            .env("FAKE_XEN", self.place.path("xen"));
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.comio().args(args).output().expect("the program starts")
    }

    /// Runs the program, which must succeed; gives its standard output as JSON.
    pub fn done_json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", words(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs the program, which must fail with code 1; gives what it said.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", words(&output));
        words(&output)
    }

    /// Starts the program and waits until xl waits at `point`, such as "3 before"; `None` if the
    /// program came to its end instead.
    pub fn start_until(&self, args: &[&str], point: &str) -> Option<Child> {
        let mut command = self.comio();
        command.args(args);
        self.spawn_until(command, point)
    }

    /// As [`start_until`](Self::start_until), for a command that ends up in the program.
    pub fn spawn_until(&self, mut command: Command, point: &str) -> Option<Child> {
        self.clear("calls");
        self.clear("stopped");
        self.clear("go");
        self.set("stop-at", point);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        let mut ended = false;
        wait_until("xl's call or the program's end", || {
            ended = child.try_wait().expect("a child").is_some();
            ended || Path::new(&self.xen("stopped")).exists()
        });
        let stopped = Path::new(&self.xen("stopped")).exists();
        assert!(ended || stopped);
        stopped.then_some(child)
    }

    /// Lets xl go on, and waits until no xl is at work.
    pub fn go(&self) {
        self.clear("stop-at");
        self.set("go", "");
        wait_until("xl's end", || {
            let files = fs::read_dir(self.place.path("xen")).expect("readable");
            !files
                .map(|file| file.expect("readable").file_name())
                .any(|name| name.to_string_lossy().starts_with("working-"))
        });
    }

    /// The state of the guest, as xl shows it; `None` if it is gone.
    pub fn state(&self, name: &str) -> Option<String> {
        let states = self.states(name);
        assert!(states.len() < 2, "{name} is there more than once: {states:?}");
        states.into_iter().next()
    }

    fn states(&self, name: &str) -> Vec<String> {
        self.domains(name).into_iter().map(|mut fields| fields.swap_remove(2)).collect()
    }

    /// The uuid of the guest, which must be there.
    pub fn uuid(&self, name: &str) -> String {
        self.domains(name).remove(0).swap_remove(4).trim().to_owned()
    }

    /// The fields of the domains of that name.
    fn domains(&self, name: &str) -> Vec<Vec<String>> {
        let files = fs::read_dir(self.place.path("xen/domains")).expect("readable");
        let lines = files.map(|file| fs::read_to_string(file.expect("readable").path()).expect("readable"));
        let fields = lines.map(|line| line.split('\t').map(ToOwned::to_owned).collect::<Vec<_>>());
        fields.filter(|fields| fields[0] == name).collect()
    }

    /// Whether the guest is there and not paused.
    pub fn runs(&self, name: &str) -> bool {
        self.state(name).is_some_and(|state| !state.contains(['p', 's']))
    }

    /// The names of images, of those being written, and of whatever else is beside them.
    pub fn images(&self) -> Vec<String> {
        names(&self.place.path("images"))
    }

    /// Whether the image is there, whole, and gives the guest's save file back.
    pub fn is_whole(&self, image: &str) -> bool {
        let (image, out) = (self.image(image), self.place.path("unpacked"));
        Path::new(&image).exists()
            && self.run(&["verify", &image]).status.success()
            && self.run(&["unpack", &image, &out]).status.success()
            && fs::read(&out).expect("readable") == fs::read(self.xen("stream")).expect("readable")
    }

    /// Guests in the journal.
    pub fn journal(&self) -> Vec<String> {
        let directory = self.place.path("state/journal");
        if !Path::new(&directory).exists() {
            return Vec::new();
        }
        names(&directory)
            .into_iter()
            .filter(|name| Path::new(name).extension().is_some_and(|end| end == "json"))
            .collect()
    }

    /// The calls of xl so far.
    pub fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.xen("log")).unwrap_or_default();
        log.lines().map(ToOwned::to_owned).collect()
    }
}

/// What the program said.
pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends `signal`, such as "-TERM", to the program.
pub fn signal(child: &Child, signal: &str) {
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(kill.expect("kill").success());
}

/// Ends the program in a way that it cannot notice.
pub fn kill_9(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("a child");
}

/// Waits until `is_so`, however busy the machine is.
#[allow(clippy::disallowed_methods, reason = "waiting for another process")]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("readable");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A save file of xl whose configuration says who the guest is.
fn save_file(name: &str, uuid: &str) -> Vec<u8> {
    let pattern = fs::read(sample("pv.xl")).expect("readable");
    let old_len = u32::from_le_bytes(pattern[44..48].try_into().expect("four bytes")) as usize;
    let json = format!(r#"{{"c_info": {{"type": "pv", "name": "{name}", "uuid": "{uuid}"}}}}"#);
    let config_len = u32::try_from(json.len() + 1).expect("short");
    let mut file = pattern[..44].to_vec();
    file.extend((config_len + 4).to_le_bytes());
    file.extend(config_len.to_le_bytes());
    file.extend(json.as_bytes());
    file.push(0);
    file.extend(&pattern[48 + old_len..]);
    file
}
