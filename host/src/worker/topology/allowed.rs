//! What this process may use of the machine: its CPUs and its share of their time.
//!
//! Three things say so: the thread's affinity mask, the cgroup's cpuset (Linux folds it into the
//! mask; some sandboxes show only one of the two), and the cgroup's CPU quota. The cgroup is
//! found as the kernel describes it: `/proc/self/cgroup` names a path in a hierarchy,
//! `/proc/self/mountinfo` says where that hierarchy is mounted and from which path on. Version 2
//! has one hierarchy, version 1 one for each controller, and a machine may have both.
//!
//! Parsing is pure; [`read_cpus`] and [`read_quota`] read files below a root that tests choose.
//!
//! Not here: what the machine consists of (`sysfs`, `hwloc`), and what follows for the workers
//! (`placement`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde::Serialize;

use super::{CpuId, parse_cpu_list};

/// The CPUs that this process may run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AllowedCpus {
    /// At least one.
    pub cpus: BTreeSet<CpuId>,
    /// Who says so, for people.
    pub from: String,
}

/// How much CPU time this process gets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quota {
    /// Seconds of CPU time in each second: 1.5 is one CPU and half of another. Above zero.
    pub cpus: f64,
    /// The file that says so.
    pub from: String,
}

/// Reads the allowed CPUs: those of `affinity`, as far as the cpuset agrees.
#[must_use]
pub fn read_cpus(root: &Path, affinity: Option<BTreeSet<CpuId>>) -> AllowedCpus {
    let mask = affinity
        .map(|cpus| (cpus, "affinity mask".to_owned()))
        // The call that reads the mask knows the first 1,024 CPUs and fails where there are
        // more; this line has no such limit.
        .or_else(|| {
            let cpus = parse_status(&read_text(root, Path::new("/proc/self/status"))?)?;
            Some((cpus, "/proc/self/status".to_owned()))
        })
        .filter(|(cpus, _)| !cpus.is_empty());
    let cpuset = read_cpuset(root);

    let (cpus, from) = match (mask, cpuset) {
        (Some((mask, from)), Some((cpuset, file))) => {
            let both: BTreeSet<CpuId> = mask.intersection(&cpuset).copied().collect();
            // A cpuset that leaves nothing is of another time or namespace: the mask is what the
            // scheduler goes by.
            if both.is_empty() || both == mask {
                (mask, from)
            } else {
                (both, format!("{from} and {file}"))
            }
        }
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => {
            let count = thread::available_parallelism().map_or(1, usize::from);
            ((0..count).collect(), "number of CPUs".to_owned())
        }
    };
    AllowedCpus { cpus, from }
}

/// Reads the smallest quota of this process's cgroup and of those above it.
#[must_use]
pub fn read_quota(root: &Path) -> Option<Quota> {
    let hierarchy = read_hierarchy(root, "cpu")?;
    let quotas = hierarchy.directories.iter().filter_map(|directory| match hierarchy.version {
        Version::Two => {
            let file = directory.join("cpu.max");
            let cpus = parse_cpu_max(&read_text(root, &file)?)?;
            Some(Quota { cpus, from: file.display().to_string() })
        }
        Version::One => {
            let file = directory.join("cpu.cfs_quota_us");
            let period = read_text(root, &directory.join("cpu.cfs_period_us"))?;
            let cpus = parse_cfs(&read_text(root, &file)?, &period)?;
            Some(Quota { cpus, from: file.display().to_string() })
        }
    });
    quotas.min_by(|a, b| a.cpus.total_cmp(&b.cpus))
}

/// The smallest limit of this process's cgroup and of those above it, and the file that says so;
/// `name` is the file's name in version 2, `name_v1` in version 1.
#[must_use]
pub fn read_limit(
    root: &Path,
    controller: &str,
    name: &str,
    name_v1: &str,
) -> Option<(u64, String)> {
    /// Version 1 writes the largest number of pages for no limit.
    const NO_LIMIT: u64 = 1 << 60;
    let hierarchy = read_hierarchy(root, controller)?;
    let name = match hierarchy.version {
        Version::Two => name,
        Version::One => name_v1,
    };
    let limits = hierarchy.directories.iter().filter_map(|directory| {
        let file = directory.join(name);
        // `max` is no limit, and no number.
        let limit: u64 = read_text(root, &file)?.trim().parse().ok()?;
        (limit < NO_LIMIT).then(|| (limit, file.display().to_string()))
    });
    limits.min()
}

/// The CPUs of the nearest cgroup that names any, and the file that does.
fn read_cpuset(root: &Path) -> Option<(BTreeSet<CpuId>, String)> {
    let hierarchy = read_hierarchy(root, "cpuset")?;
    let names: &[&str] = match hierarchy.version {
        Version::Two => &["cpuset.cpus.effective"],
        Version::One => &["cpuset.effective_cpus", "cpuset.cpus"],
    };
    // What is effective already lies within every parent's set, so the first one found will do.
    hierarchy.directories.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))).find_map(
        |file| {
            let cpus = parse_cpu_list(&read_text(root, &file)?)?;
            (!cpus.is_empty()).then(|| (cpus, file.display().to_string()))
        },
    )
}

fn read_hierarchy(root: &Path, controller: &str) -> Option<Hierarchy> {
    let groups = read_text(root, Path::new("/proc/self/cgroup"))?;
    let mounts = read_text(root, Path::new("/proc/self/mountinfo"))?;
    locate(controller, &groups, &mounts)
}

/// Reads the file that `path`, an absolute one, names below `root`.
fn read_text(root: &Path, path: &Path) -> Option<String> {
    fs::read_to_string(root.join(path.strip_prefix("/").ok()?)).ok()
}

/// A generation of the cgroup interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// Where this process's cgroup is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Decides the names of the files.
    pub version: Version,
    /// The cgroup itself, then those above it, up to where the hierarchy is mounted.
    pub directories: Vec<PathBuf>,
}

/// Finds the cgroup that a controller applies to, from the texts of `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
///
/// A controller is in one hierarchy at a time: where version 1 has it, version 2 does not.
#[must_use]
pub fn locate(controller: &str, groups: &str, mounts: &str) -> Option<Hierarchy> {
    let find = |version| {
        let group = group_path(version, controller, groups)?;
        let mounts = mounts.lines().filter_map(parse_mount);
        let mounts: Vec<Mount> = mounts
            .filter(|mount| match version {
                Version::One => mount.kind == "cgroup" && mount.has_option(controller),
                Version::Two => mount.kind == "cgroup2",
            })
            .collect();
        let below = mounts.iter().find_map(|mount| Some((mount, mount.relative(group)?)));
        // A container may show its own cgroup under a name that it does not know itself by; then
        // the mount is that cgroup.
        let (mount, path) = below.or_else(|| Some((mounts.first()?, PathBuf::new())))?;
        let directories = path.ancestors().map(|path| {
            // Joining an empty path would add a slash.
            let top = path.as_os_str().is_empty();
            if top { mount.point.clone() } else { mount.point.join(path) }
        });
        Some(Hierarchy { version, directories: directories.collect() })
    };
    find(Version::One).or_else(|| find(Version::Two))
}

/// The path in a line `hierarchy:controllers:path` of `/proc/self/cgroup`.
fn group_path<'a>(version: Version, controller: &str, groups: &'a str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match version {
            Version::One => controllers.split(',').any(|name| name == controller),
            Version::Two => hierarchy == "0" && controllers.is_empty(),
        };
        found.then_some(path)
    })
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    /// The path within the file system that is mounted.
    root: String,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    fn has_option(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }

    /// Where a cgroup lies below the mount point; `None` when it lies outside of the mount.
    fn relative(&self, group: &str) -> Option<PathBuf> {
        let path = Path::new(group).strip_prefix(&self.root).ok()?;
        // `/../x` is how a cgroup namespace shows what is outside of it.
        let outside = path.components().any(|part| part.as_os_str() == "..");
        (!outside).then(|| path.to_owned())
    }
}

/// `31 23 0:28 /root /point options … - kind source options`
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let options = filesystem.nth(1).unwrap_or_default();
    Some(Mount { root, point: point.into(), kind, options })
}

/// Undoes the escapes of mountinfo: `\134` is a backslash, and systemd's names have many.
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    // The backslash comes last, so that what it leaves is not read again.
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(escape, character);
    }
    plain
}

/// CPUs' worth of time in a `cpu.max`: `150000 100000` is 1.5, `max 100000` no limit.
#[must_use]
pub fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    let quota = fields.next()?;
    // The kernel's own default, for a file that gives the quota alone.
    parse_cfs(quota, fields.next().unwrap_or("100000"))
}

/// CPUs' worth of time in a pair of `cpu.cfs_quota_us` and `cpu.cfs_period_us`; -1 is no limit.
#[must_use]
pub fn parse_cfs(quota: &str, period: &str) -> Option<f64> {
    let number = |text: &str| -> Option<f64> {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok())?
    };
    let cpus = number(quota)? / number(period)?;
    (cpus.is_finite() && cpus > 0.0).then_some(cpus)
}

/// The mask in a `/proc/self/status`.
#[must_use]
pub fn parse_status(text: &str) -> Option<BTreeSet<CpuId>> {
    text.lines().find_map(|line| parse_cpu_list(line.strip_prefix("Cpus_allowed_list:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS_V2: &str = "24 30 0:22 / /proc rw - proc proc rw\n\
        35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const MOUNTS_V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 /docker/4f /sys/fs/cgroup/cpu,cpuacct ro master:12 - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:31 /docker/4f /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{content}\n")).unwrap();
        }
        root
    }

    fn paths(hierarchy: &Hierarchy) -> Vec<&str> {
        hierarchy.directories.iter().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn quotas_are_read_and_anything_else_is_no_quota() {
        for (text, cpus) in [
            ("150000 100000\n", Some(1.5)),
            ("50000 100000\n", Some(0.5)),
            ("6400000 100000", Some(64.0)),
            ("200000", Some(2.0)),
            ("max 100000\n", None),
            ("max", None),
            ("", None),
            ("0 100000", None),
            ("100000 0", None),
            ("0 0", None),
            ("inf 100000", None),
            ("1e5 100000", None),
            ("-1 100000", None),
        ] {
            assert_eq!(parse_cpu_max(text), cpus, "{text}");
        }
        assert_eq!(parse_cfs("-1\n", "100000\n"), None);
        assert_eq!(parse_cfs("25000\n", "50000\n"), Some(0.5));
    }

    #[test]
    fn the_cgroup_of_version_2_is_found_with_all_its_parents() {
        let hierarchy = locate("cpu", "0::/app.slice/zproxy.service\n", MOUNTS_V2).unwrap();

        assert_eq!(hierarchy.version, Version::Two);
        assert_eq!(
            paths(&hierarchy),
            [
                "/sys/fs/cgroup/app.slice/zproxy.service",
                "/sys/fs/cgroup/app.slice",
                "/sys/fs/cgroup"
            ]
        );
    }

    /// Without a cgroup namespace a container knows the path on the host, but sees only its part.
    #[test]
    fn the_root_of_a_mount_is_taken_off_the_path() {
        let groups = "5:cpu,cpuacct:/docker/4f/child\n3:cpuset:/docker/4f\n0::/docker/4f\n";

        let cpu = locate("cpu", groups, MOUNTS_V1).unwrap();
        let cpuset = locate("cpuset", groups, MOUNTS_V1).unwrap();

        assert_eq!(cpu.version, Version::One);
        assert_eq!(paths(&cpu), ["/sys/fs/cgroup/cpu,cpuacct/child", "/sys/fs/cgroup/cpu,cpuacct"]);
        assert_eq!(paths(&cpuset), ["/sys/fs/cgroup/cpuset"]);
    }

    #[test]
    fn a_cgroup_outside_of_the_mount_is_the_mount_itself() {
        for groups in ["0::/../other", "0::/elsewhere"] {
            let mounts = MOUNTS_V2.replace("0:30 / ", "0:30 /mine ");
            assert_eq!(
                paths(&locate("cpu", groups, &mounts).unwrap()),
                ["/sys/fs/cgroup"],
                "{groups}"
            );
        }
        let hierarchy = locate("cpu", "0::/../other", MOUNTS_V2).unwrap();
        assert_eq!(paths(&hierarchy), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn escapes_in_mount_points_are_undone() {
        let mounts =
            r"35 24 0:30 /a\134x2db /my\040cgroup rw - cgroup2 cgroup2 rw".to_owned() + "\n";

        let hierarchy = locate("cpu", "0::/a\\x2db/c", &mounts).unwrap();

        assert_eq!(paths(&hierarchy), ["/my cgroup/c", "/my cgroup"]);
    }

    #[test]
    fn without_a_cgroup_there_is_nothing_to_find() {
        assert_eq!(locate("cpu", "", MOUNTS_V2), None);
        assert_eq!(locate("cpu", "0::/x", ""), None);
        assert_eq!(locate("cpu", "garbage\n\n::", "garbage - \n - "), None);
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_wins() {
        let root = tree(&[
            ("/proc/self/cgroup", "0::/a/b"),
            ("/proc/self/mountinfo", MOUNTS_V2),
            ("/sys/fs/cgroup/a/b/cpu.max", "400000 100000"),
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000"),
        ]);

        let quota = read_quota(root.path()).unwrap();

        assert_eq!(quota, Quota { cpus: 1.5, from: "/sys/fs/cgroup/a/cpu.max".to_owned() });
    }

    #[test]
    fn version_1_quotas_count_too() {
        let cpu = "/sys/fs/cgroup/cpu,cpuacct";
        let root = tree(&[
            ("/proc/self/cgroup", "5:cpu,cpuacct:/docker/4f/child\n0::/"),
            ("/proc/self/mountinfo", MOUNTS_V1),
            (&format!("{cpu}/child/cpu.cfs_quota_us"), "-1"),
            (&format!("{cpu}/child/cpu.cfs_period_us"), "100000"),
            (&format!("{cpu}/cpu.cfs_quota_us"), "250000"),
            (&format!("{cpu}/cpu.cfs_period_us"), "100000"),
        ]);

        let quota = read_quota(root.path()).unwrap();

        assert_eq!(quota, Quota { cpus: 2.5, from: format!("{cpu}/cpu.cfs_quota_us") });
    }

    #[test]
    fn no_files_mean_no_quota() {
        assert_eq!(read_quota(tree(&[]).path()), None);
    }

    fn with_cpuset(list: &str) -> tempfile::TempDir {
        tree(&[
            ("/proc/self/cgroup", "0::/a/b"),
            ("/proc/self/mountinfo", MOUNTS_V2),
            ("/sys/fs/cgroup/a/cpuset.cpus.effective", list),
            ("/sys/fs/cgroup/cpuset.cpus.effective", "0-63"),
        ])
    }

    #[test]
    fn the_cpuset_narrows_the_mask_unless_it_leaves_nothing() {
        let mask = || Some(BTreeSet::from([0, 1, 2, 3]));
        let file = "/sys/fs/cgroup/a/cpuset.cpus.effective";
        for (list, cpus, from) in [
            ("1-2", vec![1, 2], format!("affinity mask and {file}")),
            ("0-7", vec![0, 1, 2, 3], "affinity mask".to_owned()),
            ("8-9", vec![0, 1, 2, 3], "affinity mask".to_owned()),
        ] {
            let allowed = read_cpus(with_cpuset(list).path(), mask());

            assert_eq!(allowed, AllowedCpus { cpus: cpus.into_iter().collect(), from });
        }
    }

    #[test]
    fn without_a_mask_the_status_file_the_cpuset_or_the_number_of_cpus_must_do() {
        let status = tree(&[(
            "/proc/self/status",
            "Name:\tzproxy\nCpus_allowed:\tff\nCpus_allowed_list:\t4-7",
        )]);
        let cpuset = with_cpuset("3");

        let by_status = read_cpus(status.path(), None);
        let by_cpuset = read_cpus(cpuset.path(), None);
        let by_number = read_cpus(tree(&[]).path(), Some(BTreeSet::new()));

        assert_eq!(by_status.cpus, BTreeSet::from([4, 5, 6, 7]));
        assert_eq!(by_status.from, "/proc/self/status");
        assert_eq!(by_cpuset.cpus, BTreeSet::from([3]));
        assert_eq!(by_number.cpus.first(), Some(&0));
        assert_eq!(by_number.from, "number of CPUs");
    }
}
