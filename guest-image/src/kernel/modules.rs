//! Which kernel modules the guest needs, and in which order they load. Pure: module files come from a closure.
//!
//! Modules that depend on each other, over however many corners, form a group; groups may load side by side.

use super::modinfo::{self, ModinfoError, canonical};
use coffer_evidence::manifest::Profile;
use std::collections::{BTreeMap, BTreeSet};

/// Whether the guest can do without a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The boot fails without it.
    Required,
    /// It may fail to load.
    Optional,
}

/// What every guest needs (order matters only between equals; dependencies come first anyway).
const COMMON: [(&str, Need); 11] = [
    ("vmw_vsock_virtio_transport", Need::Required),
    ("configfs", Need::Required),
    ("tsm_report", Need::Required),
    ("virtio_pci", Need::Required),
    ("virtio_blk", Need::Required),
    ("dm_mod", Need::Required),
    ("sha256", Need::Required),
    ("dm_verity", Need::Required),
    ("lz4_decompress", Need::Required),
    ("erofs", Need::Required),
    ("overlay", Need::Required),
];

/// What the guest of a profile needs.
#[must_use]
pub fn wanted(profile: Profile) -> Vec<(&'static str, Need)> {
    let mut wanted = COMMON.to_vec();
    wanted.push(match profile {
        // Elsewhere it says "no such device", after the kernel has read and verified it.
        Profile::Tdx => ("tdx_guest", Need::Required),
        // The shim serves its files through it; nobody else has a use for it.
        Profile::Simulated => ("fuse", Need::Required),
    });
    wanted
}

/// What those depend on in the kernels that are known, where it is not built in. A kernel that needs another one is looked
/// at before its image is signed.
const DEPENDENCIES: [&str; 4] = ["vsock", "vmw_vsock_virtio_transport_common", "dm_bufio", "reed_solomon"];

/// The modules that an image of a profile may hold, and no other.
#[must_use]
pub fn allowed(profile: Profile) -> Vec<&'static str> {
    wanted(profile).into_iter().map(|(name, _)| name).chain(DEPENDENCIES).collect()
}

/// A module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Canonical name.
    pub name: String,
    /// Whether it must load.
    pub need: Need,
    /// The same number for modules that depend on each other.
    pub group: usize,
    /// The uncompressed file, with its signature.
    pub bytes: Vec<u8>,
}

/// Why there is no load order.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// Neither built in nor a module.
    #[error(
        "expected the kernel to have `{name}` (built in or as a module), found neither: this kernel cannot run the guest; use another"
    )]
    Absent {
        /// Canonical name.
        name: String,
    },
    /// The module file is not one.
    #[error("reading the kernel module `{name}`")]
    Modinfo {
        /// Canonical name.
        name: String,
        /// What is wrong.
        #[source]
        source: ModinfoError,
    },
    /// The module file could not be read.
    #[error("reading the kernel module `{name}`")]
    Read {
        /// Canonical name.
        name: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a kernel has, by canonical name.
#[derive(Debug, Default)]
pub struct Kernel<F> {
    /// Built in.
    pub builtin: BTreeSet<String>,
    /// Modules: where their files are, as `read` understands it.
    pub files: BTreeMap<String, F>,
}

/// The modules to load, group by group, dependencies first. `read` gives a module's uncompressed bytes.
pub fn load_order<F, E>(
    kernel: &Kernel<F>,
    wanted: &[(&str, Need)],
    mut read: impl FnMut(&F) -> Result<Vec<u8>, E>,
) -> Result<Vec<Module>, ModulesError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut order = Vec::new();
    for &(name, need) in wanted {
        add(kernel, &canonical(name), need, &mut read, &mut order, &mut BTreeSet::new())?;
    }
    // Stable: within a group the order stays.
    order.sort_by_key(|module| module.group);
    Ok(order)
}

fn add<F, E>(
    kernel: &Kernel<F>,
    name: &str,
    need: Need,
    read: &mut impl FnMut(&F) -> Result<Vec<u8>, E>,
    order: &mut Vec<Module>,
    above: &mut BTreeSet<String>,
) -> Result<(), ModulesError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    if let Some(known) = order.iter_mut().find(|module| module.name == name) {
        // Optional for one and required by another: required. Its dependencies were required already or built in.
        if need == Need::Required {
            known.need = Need::Required;
        }
        return Ok(());
    }
    // A circle of dependencies cannot be loaded by anybody; what is above is loaded by its own call.
    if kernel.builtin.contains(name) || !above.insert(name.to_owned()) {
        return Ok(());
    }
    let file = kernel.files.get(name).ok_or_else(|| ModulesError::Absent { name: name.into() })?;
    let bytes = read(file).map_err(|source| ModulesError::Read { name: name.into(), source: Box::new(source) })?;
    let depends = modinfo::depends(&bytes).map_err(|source| ModulesError::Modinfo { name: name.into(), source })?;
    let mut groups = BTreeSet::from([order.len()]);
    for dependency in depends {
        add(kernel, &dependency, need, read, order, above)?;
        groups.extend(order.iter().find(|module| module.name == dependency).map(|module| module.group));
    }
    // The groups that it joins become one, under the number of the first.
    let group = groups.first().copied().unwrap_or_default();
    for module in order.iter_mut().filter(|module| groups.contains(&module.group)) {
        module.group = group;
    }
    order.push(Module { name: name.into(), need, bytes, group });
    Ok(())
}

/// Canonical names out of the kernel package's `modules.builtin`: one path a line.
pub fn parse_builtin(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| canonical_of_path(line.trim())).collect()
}

/// The module a path like `kernel/fs/erofs/erofs.ko.xz` is of.
pub fn canonical_of_path(path: &str) -> Option<String> {
    let (name, _) = path.rsplit('/').next()?.split_once(".ko")?;
    Some(canonical(name))
}

#[cfg(test)]
mod tests {
    use super::super::modinfo::tests::module;
    use super::*;
    use std::convert::Infallible;

    fn kernel(modules: &[(&str, &'static str)], builtin: &[&str]) -> Kernel<&'static str> {
        Kernel {
            builtin: builtin.iter().map(|name| (*name).to_owned()).collect(),
            files: modules.iter().map(|(name, depends)| ((*name).to_owned(), *depends)).collect(),
        }
    }

    fn order(kernel: &Kernel<&'static str>, wanted: &[(&str, Need)]) -> Result<Vec<(String, Need)>, ModulesError> {
        let read = |depends: &&'static str| Ok::<_, Infallible>(module(format!("depends={depends}\0").as_bytes()));
        let modules = load_order(kernel, wanted, read)?;
        Ok(modules.into_iter().map(|module| (module.name, module.need)).collect())
    }

    #[test]
    fn dependencies_come_first_and_each_module_once() {
        let kernel = kernel(
            &[("dm_verity", "dm-mod,dm-bufio"), ("dm_bufio", "dm-mod"), ("dm_mod", ""), ("erofs", "crc32")],
            &["crc32"],
        );
        let found = order(&kernel, &[("erofs", Need::Required), ("dm-verity", Need::Required)]).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["erofs", "dm_mod", "dm_bufio", "dm_verity"]);
    }

    #[test]
    fn modules_that_meet_anywhere_are_one_group_and_stand_together() {
        let kernel = kernel(&[("a", ""), ("b", ""), ("c", "a,b"), ("d", "b"), ("e", ""), ("f", "e")], &[]);
        let read = |depends: &&'static str| Ok::<_, Infallible>(module(format!("depends={depends}\0").as_bytes()));
        let wanted = ["a", "e", "b", "c", "d", "f"].map(|name| (name, Need::Required));
        let modules = load_order(&kernel, &wanted, read).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
        let group = |name: &str| modules.iter().find(|module| module.name == name).unwrap().group;
        assert!(["b", "c", "d"].iter().all(|name| group(name) == group("a")));
        assert_eq!(group("e"), group("f"));
        assert_ne!(group("a"), group("e"));
    }

    #[test]
    fn only_the_guest_of_a_tdx_host_has_the_tdx_driver() {
        let has = |profile| wanted(profile).iter().any(|(name, _)| *name == "tdx_guest");
        assert!(has(Profile::Tdx) && !has(Profile::Simulated));
    }

    #[test]
    fn what_only_an_optional_module_needs_is_optional_and_what_a_required_one_needs_is_not() {
        let kernel = kernel(&[("tdx_guest", "tsm"), ("tsm", ""), ("only", ""), ("other", "only")], &[]);
        let found =
            order(&kernel, &[("other", Need::Optional), ("tdx_guest", Need::Optional), ("tsm", Need::Required)])
                .unwrap();
        let expected = [
            ("only", Need::Optional),
            ("other", Need::Optional),
            ("tsm", Need::Required),
            ("tdx_guest", Need::Optional),
        ];
        assert_eq!(found, expected.map(|(name, need)| (name.to_owned(), need)));
    }

    #[test]
    fn a_kernel_without_a_needed_module_is_refused_by_name() {
        let error = order(&kernel(&[("a", "b")], &[]), &[("a", Need::Required)]).unwrap_err();
        assert!(matches!(&error, ModulesError::Absent { name } if name == "b"), "{error}");
    }

    #[test]
    fn a_circle_of_dependencies_ends() {
        let found = order(&kernel(&[("a", "b"), ("b", "a")], &[]), &[("a", Need::Required)]).unwrap();
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn paths_give_canonical_names() {
        assert_eq!(canonical_of_path("kernel/drivers/md/dm-mod.ko.xz").as_deref(), Some("dm_mod"));
        assert_eq!(canonical_of_path("kernel/fs/fuse/fuse.ko").as_deref(), Some("fuse"));
        assert_eq!(canonical_of_path("modules.order"), None);
        assert!(parse_builtin("kernel/crypto/sha256.ko\n\n").contains("sha256"));
    }
}
