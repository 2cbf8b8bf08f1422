//! Processor time as the hypervisor counts it: xl shows tenths of a second, in which a guest can do much.

use super::interface::{Control, Domain as Told};
use crate::toolstack::Domain;

/// `domains` with it, where the hypervisor can be asked.
pub(crate) fn with_cpu_time(mut domains: Vec<Domain>) -> Vec<Domain> {
    let told = Control::open().and_then(|control| control.domains()).unwrap_or_default();
    put_in(&mut domains, &told);
    domains
}

fn put_in(domains: &mut [Domain], told: &[Told]) {
    for domain in domains {
        let uuid = domain.uuid.replace('-', "");
        let same = told
            .iter()
            .find(|told| told.id == domain.id && format!("{:032x}", u128::from_be_bytes(told.uuid)) == uuid);
        domain.cpu_ns = same.map(|told| told.cpu_ns);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::xen::control::Kind;

    #[test]
    fn it_is_put_where_number_and_uuid_are_the_same() {
        let domain = |id| Domain {
            id,
            name: "guest".to_owned(),
            uuid: "00000000-0000-0000-0000-0000000000ff".to_owned(),
            memory_mib: 0,
            vcpus: 1,
            state: "--p---".to_owned(),
            cpu_deciseconds: 0,
            cpu_ns: None,
        };
        let told = Told {
            id: 7,
            uuid: 255u128.to_be_bytes(),
            kind: Kind::Pv,
            dying: false,
            shutdown: false,
            paused: true,
            pages: 0,
            pages_max: 0,
            cpu_ns: 5,
            shared_info_frame: 0,
        };
        let mut domains = [domain(7), domain(8)];
        put_in(&mut domains, &[told]);
        assert_eq!(domains.map(|domain| domain.cpu_ns), [Some(5), None]);
    }
}
