//! The only way out: power off. A guest that cannot do its work does not linger, and offers no shell.

use super::console;
use rustix::system::{RebootCommand, reboot};

/// Says why and powers the machine off. Refuses to do that to a machine it is not PID 1 of.
pub fn off(why: &str) -> ! {
    console::say(&format!("power off: {why}"));
    if std::process::id() == 1 {
        let _ = reboot(RebootCommand::PowerOff);
        // Power-off is refused only without the capability, which PID 1 has. Ending PID 1 panics the kernel, and the
        // command line makes a panic a reset, which ends the machine as well.
    }
    std::process::abort()
}
