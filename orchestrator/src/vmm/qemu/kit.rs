//! Which QEMU is run: the kit in the cache with its own loader, libraries and data, or a program that the operator names.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::jail::{Access, Exposure, text};
use crate::vmm::LaunchError;

const KIT_HINT: &str = "build it with `coffer-image build`, or set vmm.qemu";

/// `kit.json`, paths relative to the kit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: String,
    binary: PathBuf,
    loader: PathBuf,
    library_path: Vec<PathBuf>,
    data: Vec<PathBuf>,
}

/// How QEMU is started: the arguments before its own, and what the jail must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QemuProgram {
    pub(crate) prefix: Vec<String>,
    pub(crate) expose: Vec<Exposure>,
    /// As the kit describes itself; none for a program of the operator.
    pub(crate) version: Option<String>,
}

/// The kit in the user's cache.
pub(crate) fn default_kit() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("coffer/qemu/current"))
}

impl QemuProgram {
    /// Chooses: `program` where one is named, else the kit.
    pub(crate) fn find(program: Option<&Path>, kit: Option<&Path>) -> Result<Self, LaunchError> {
        let kit = kit.map(Path::to_path_buf).or_else(default_kit);
        match (program, kit) {
            // The kit stays visible: a program named by the operator may run it.
            (Some(program), kit) => Self::named(program, kit.as_deref()),
            (None, Some(kit)) => Self::kit(&kit),
            (None, None) => Err(LaunchError::Kit("expected HOME or XDG_CACHE_HOME to find the QEMU kit".to_owned())),
        }
    }

    fn named(program: &Path, kit: Option<&Path>) -> Result<Self, LaunchError> {
        let missing = || LaunchError::Missing { what: "QEMU", path: program.to_path_buf(), hint: "correct vmm.qemu" };
        let program = program.canonicalize().map_err(|_| missing())?;
        let mut expose = vec![Exposure { path: program.clone(), access: Access::ReadOnly }];
        if let Some(kit) = kit.and_then(|kit| kit.canonicalize().ok()) {
            expose.push(Exposure { path: kit, access: Access::ReadOnly });
        }
        Ok(Self { prefix: vec![text(&program)?], expose, version: None })
    }

    fn kit(kit: &Path) -> Result<Self, LaunchError> {
        let missing = || LaunchError::Missing { what: "a QEMU kit", path: kit.to_path_buf(), hint: KIT_HINT };
        let root = kit.canonicalize().map_err(|_| missing())?;
        let json = std::fs::read(root.join("kit.json")).map_err(|_| missing())?;
        let found: Description = serde_json::from_slice(&json)
            .map_err(|error| LaunchError::Kit(format!("{}/kit.json: {error}: {KIT_HINT}", root.display())))?;
        let inside = |path: &Path| text(&root.join(path));
        let libraries = found.library_path.iter().map(|p| inside(p)).collect::<Result<Vec<_>, _>>()?;
        let mut prefix =
            vec![inside(&found.loader)?, "--library-path".to_owned(), libraries.join(":"), inside(&found.binary)?];
        for data in &found.data {
            prefix.extend(["-L".to_owned(), inside(data)?]);
        }
        Ok(Self {
            prefix,
            expose: vec![Exposure { path: root.clone(), access: Access::ReadOnly }],
            version: Some(found.version),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kit_runs_under_its_own_loader_with_its_own_data() {
        let dir = tempfile::tempdir().expect("a directory");
        let kit = dir.path().join("11.1.3");
        std::fs::create_dir(&kit).expect("mkdir");
        std::os::unix::fs::symlink("11.1.3", dir.path().join("current")).expect("link");
        let description = r#"{"version":"11.1.3","binary":"usr/bin/qemu-system-x86_64","loader":"lib64/ld.so.2",
            "library_path":["usr/lib/a","usr/lib/b"],"data":["usr/share/qemu","usr/share/seabios"]}"#;
        std::fs::write(kit.join("kit.json"), description).expect("write");
        let found = QemuProgram::find(None, Some(&dir.path().join("current"))).expect("the kit");
        let root = kit.canonicalize().expect("kit").display().to_string();
        let expected = [
            format!("{root}/lib64/ld.so.2"),
            "--library-path".into(),
            format!("{root}/usr/lib/a:{root}/usr/lib/b"),
            format!("{root}/usr/bin/qemu-system-x86_64"),
            "-L".into(),
            format!("{root}/usr/share/qemu"),
            "-L".into(),
            format!("{root}/usr/share/seabios"),
        ];
        assert_eq!(found.prefix, expected);
        assert_eq!(found.expose.len(), 1);
    }

    #[test]
    fn a_missing_qemu_says_what_to_do() {
        let error = QemuProgram::find(None, Some(Path::new("/no/kit"))).expect_err("none").to_string();
        assert!(error.contains("coffer-image build"), "{error}");
        let error = QemuProgram::find(Some(Path::new("/no/qemu")), None).expect_err("none").to_string();
        assert!(error.contains("vmm.qemu"), "{error}");
    }
}
