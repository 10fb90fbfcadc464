//! A machine that booted as the small log says, in a recipe: its registers, and the image that names them.

use coffer_evidence::event_log::EventLog;
use coffer_evidence::manifest::{ImageManifest, Register};

use crate::boot_log::{log, small_boot};
use crate::platform::Td;

fn registers() -> [[u8; 48]; 3] {
    let bytes = log(&small_boot());
    let [rtmr0, rtmr1, rtmr2, _] = EventLog::parse(&bytes).expect("our own log").replay();
    [rtmr0, rtmr1, rtmr2].map(|register| *register.as_bytes())
}

pub(crate) fn booted(td: &mut Td) {
    td.rtmr[..3].copy_from_slice(&registers());
}

pub(crate) fn named(manifest: &mut ImageManifest) {
    let [rtmr0, rtmr1, rtmr2] = registers().map(Register);
    let shape = manifest.shapes.get_mut("s1").expect("the shape");
    (shape.rtmr0, shape.rtmr1, shape.rtmr2) = (rtmr0, rtmr1, rtmr2);
}
