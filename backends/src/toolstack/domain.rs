//! Domains as `xl list -v` tells of them.

use comio_core::hypervisor::HypervisorError;

/// Xen's control domain: never saved.
pub const DOMAIN_0: u32 = 0;

/// A domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its number, another one after each restore.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its uuid in lower case, the same through saves and restores.
    pub uuid: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// What xl shows: six letters or dashes for running, blocked, paused, shut down, why, dying.
    pub state: String,
    /// Processor time used, in tenths of a second: what `xl list` counts in.
    pub cpu_deciseconds: u64,
    /// The same in nanoseconds, where the hypervisor itself can be asked (feature `xen`).
    pub cpu_ns: Option<u64>,
}

impl Domain {
    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.state.contains('p')
    }

    /// Whether nothing shows that it ever ran: it is paused and has used no processor time.
    pub fn never_ran(&self) -> bool {
        self.is_paused() && self.cpu_ns.unwrap_or(self.cpu_deciseconds) == 0
    }

    /// Whether it has answered a request to suspend, as for a save, and nobody has resumed it.
    pub(super) fn is_suspended(&self) -> bool {
        self.state.get(3..5) == Some("ss")
    }

    /// Whether it has shut itself down and is still there: after a save that failed nobody waits for
    /// its end, since the xl that created it goes with the first suspension.
    pub fn has_powered_off(&self) -> bool {
        self.state.get(3..5) == Some("s-")
    }

    /// Whether it runs, or would as soon as it had something to do.
    pub fn is_running(&self) -> bool {
        !self.state.contains(['p', 's', 'c', 'd'])
    }
}

/// The domains that `xl list -v` printed.
///
/// # Errors
/// [`HypervisorError::Unavailable`] for lines of another form.
pub(super) fn parse_list(text: &str) -> Result<Vec<Domain>, HypervisorError> {
    text.lines().skip(1).filter(|line| !line.trim().is_empty()).map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<Domain, HypervisorError> {
    let unknown =
        || HypervisorError::Unavailable(format!("xl list printed a line of unknown form: {line:?}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    // A name may hold blanks, and be a uuid itself: the columns are counted from the last uuid.
    let uuid_at = words.iter().rposition(|word| is_uuid(word)).ok_or_else(unknown)?;
    let [name @ .., id, memory, vcpus, state, time] = &words[..uuid_at] else { return Err(unknown()) };
    let deciseconds = time.replacen('.', "", 1);
    Ok(Domain {
        id: id.parse().map_err(|_| unknown())?,
        name: name.join(" "),
        uuid: words[uuid_at].to_lowercase(),
        memory_mib: memory.parse().map_err(|_| unknown())?,
        vcpus: vcpus.parse().map_err(|_| unknown())?,
        state: (*state).to_owned(),
        cpu_deciseconds: deciseconds.parse().map_err(|_| unknown())?,
        cpu_ns: None,
    })
}

/// Whether `word` has the form of a uuid.
fn is_uuid(word: &str) -> bool {
    let groups: Vec<&str> = word.split('-').collect();
    let lens: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lens == [8, 4, 4, 4, 12] && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The domain that `wanted` means: a number, which digits are for xl too; else a name, else a uuid.
///
/// # Errors
/// [`HypervisorError::NotFound`].
pub fn find_domain<'a>(domains: &'a [Domain], wanted: &str) -> Result<&'a Domain, HypervisorError> {
    let by = |test: &dyn Fn(&Domain) -> bool| domains.iter().find(|domain| test(domain));
    by(&|domain| wanted.parse() == Ok(domain.id))
        .or_else(|| by(&|domain| domain.name == wanted))
        .or_else(|| by(&|domain| wanted.eq_ignore_ascii_case(&domain.uuid)))
        .ok_or_else(|| HypervisorError::NotFound(wanted.to_owned()))
}

#[cfg(test)]
mod test {
    use super::*;

    const LIST: &str = "\
Name                                        ID   Mem VCPUs	State	Time(s)   UUID                            Reason-Code	Security Label
Domain-0                                     0   768     1     r-----      73.3 00000000-0000-0000-0000-000000000000        -                -
my guest                                     7   128     2     --p---       4.0 9A4F3B2C-0000-4000-8000-000000000007        -                -
";

    #[test]
    fn names_with_blanks_and_states_are_read() {
        let domains = parse_list(LIST).expect("parses");
        assert_eq!(domains.len(), 2);
        assert_eq!(
            (domains[1].name.as_str(), domains[1].id, domains[1].cpu_deciseconds),
            ("my guest", 7, 40)
        );
        assert!(domains[1].is_paused() && !domains[1].is_running());
        assert!(domains[0].is_running() && domains[0].cpu_deciseconds == 733);
    }

    #[test]
    fn a_domain_is_found_by_name_number_and_uuid() {
        let domains = parse_list(LIST).expect("parses");
        for wanted in ["my guest", "7", "9a4f3b2c-0000-4000-8000-000000000007"] {
            assert_eq!(find_domain(&domains, wanted).expect("found").id, 7, "{wanted}");
        }
        assert!(matches!(find_domain(&domains, "8"), Err(HypervisorError::NotFound(_))));
    }

    #[test]
    fn digits_are_a_number_and_the_last_uuid_is_the_uuid() {
        let named = |name: &str| LIST.replace("my guest", name);
        let domains = parse_list(&named("0")).expect("parses");
        assert_eq!(find_domain(&domains, "0").expect("found").name, "Domain-0");
        let domains = parse_list(&named("11111111-2222-4333-8444-555555555555")).expect("parses");
        assert_eq!(domains[1].uuid, "9a4f3b2c-0000-4000-8000-000000000007");
    }

    #[test]
    fn a_suspended_guest_is_told_from_others_that_do_not_run() {
        let domain = |state: &str| parse_list(&LIST.replace("--p---", state)).expect("parses").swap_remove(1);
        let states = ["---ss-", "--pss-", "---s--", "---sc-", "--p---"].map(domain);
        assert_eq!(states.each_ref().map(Domain::is_suspended), [true, true, false, false, false]);
        assert_eq!(states.each_ref().map(Domain::has_powered_off), [false, false, true, false, false]);
    }

    #[test]
    fn a_guest_that_ran_less_than_xl_counts_has_run() {
        let list = LIST.replace("4.0", "0.0");
        let mut domain = parse_list(&list).expect("parses").swap_remove(1);
        assert!(domain.never_ran());
        domain.cpu_ns = Some(1);
        assert!(!domain.never_ran());
    }

    #[test]
    fn other_forms_are_refused() {
        for line in ["", "guest 1 2", "x y z a b 9a4f3b2c-0000-4000-8000-000000000007"] {
            let text = format!("header\n{line}.\n");
            assert!(parse_list(&text).is_err(), "{line}");
        }
    }
}
