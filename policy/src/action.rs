//! The actions of the domain, and what kind of thing each is done to.

use std::fmt;
use std::str::FromStr;

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file or directory, by absolute path.
    Path,
    /// A file that is executed, by absolute path.
    Program,
    /// A git remote.
    Remote,
    /// A host of the network.
    Host,
    /// A model.
    Model,
    /// A secret.
    Secret,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [Self::Path, Self::Program, Self::Remote, Self::Host, Self::Model, Self::Secret];

    /// The name of the type in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Path => "Path",
            Self::Program => "Program",
            Self::Remote => "Remote",
            Self::Host => "Host",
            Self::Model => "Model",
            Self::Secret => "Secret",
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $text:literal $kind:ident $group:expr;)*) => {
        /// What an identity wants to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in a policy.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What it is done to.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)*
                }
            }

            /// The group that `action in` knows it by.
            pub(crate) const fn group(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => $group,)*
                }
            }
        }
    };
}

actions! {
    /// Run a program.
    Exec "exec" Program None;
    /// Read a file, list a directory.
    FileRead "file.read" Path Some("file");
    /// Make or change a file or directory.
    FileWrite "file.write" Path Some("file");
    /// Remove a file or directory.
    FileDelete "file.delete" Path Some("file");
    /// Show the state of a work tree.
    GitStatus "git.status" Path Some("git");
    /// Show differences.
    GitDiff "git.diff" Path Some("git");
    /// Show history.
    GitLog "git.log" Path Some("git");
    /// Stage.
    GitAdd "git.add" Path Some("git");
    /// Commit.
    GitCommit "git.commit" Path Some("git");
    /// Make, move or remove a branch.
    GitBranch "git.branch" Path Some("git");
    /// Fetch from a remote.
    GitFetch "git.fetch" Remote Some("git");
    /// Push to a remote.
    GitPush "git.push" Remote Some("git");
    /// Connect to a host.
    NetConnect "net.connect" Host None;
    /// Ask a model.
    ModelInvoke "model.invoke" Model None;
    /// Use a secret.
    SecretUse "secret.use" Secret None;
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|action| action.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|action| action.as_str()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}
