//! The device against a guest that means harm: `coffer-vsock` as it is built, driven over vhost-user by a driver that puts
//! anything into its rings. After each attack the device is up, is as large as before, and serves a driver that behaves.

mod attacks;
mod device;
mod driver;
mod floods;

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use coffer_vsock::packet::{Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use vm_memory::{Bytes as _, GuestAddress};

use device::{Device, SOON};
use driver::{Driver, Notify};

/// A host port with a program that gives back what it is sent.
const ECHO: u32 = 7000;
/// A host port on which nobody listens.
const NOBODY: u32 = 7009;
/// The device's own memory in KiB when nothing waits in it.
const SMALL_KIB: u64 = 16 * 1024;

/// The device, its driver, and the programs of the host.
struct Scene {
    device: Device,
    driver: Driver,
    descriptors: usize,
    port: u32,
}

impl Scene {
    fn new(notify: Notify) -> Self {
        let device = Device::start();
        let listener = UnixListener::bind(device.port(ECHO)).expect("listen");
        // It ends with this process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        let driver = Driver::new(&device, notify);
        let descriptors = device.descriptors();
        Self { device, driver, descriptors, port: 50_000 }
    }

    /// A port of the guest that was not used before.
    fn fresh_port(&mut self) -> u32 {
        self.port += 1;
        self.port
    }

    /// The device runs, small, and serves connections either way.
    fn assert_sound(&mut self, after: &str) {
        self.device.assert_alive(after);
        self.guest_is_served(after);
        self.host_is_served(after);
        let (memory, descriptors) = (self.device.memory_kib(), self.device.descriptors());
        assert!(memory < SMALL_KIB, "after {after}: {memory} KiB");
        assert_eq!(descriptors, self.descriptors, "descriptors after {after}");
    }

    /// The guest calls the host's echo, and hears itself.
    fn guest_is_served(&mut self, after: &str) {
        let port = self.fresh_port();
        self.driver.say(Operation::Request, port, ECHO);
        self.driver.expect_of(Operation::Response, port);
        let said: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
        self.driver.send(&[Driver::payload(port, ECHO, &said)]);
        let mut heard = Vec::new();
        while heard.len() < said.len() {
            heard.extend(self.driver.expect_of(Operation::Payload, port).1);
        }
        assert_eq!(heard, said, "after {after}");
        self.end(port, ECHO);
    }

    /// A program of the host calls the guest, and the guest answers.
    fn host_is_served(&mut self, after: &str) {
        let port = self.fresh_port();
        let mut program = UnixStream::connect(self.device.uds()).expect("connect");
        program.set_read_timeout(Some(SOON)).expect("a timeout");
        program.write_all(format!("CONNECT {port}\n").as_bytes()).expect("ask");
        let (request, _) = self.driver.expect_of(Operation::Request, port);
        self.driver.say(Operation::Response, port, request.src_port);
        self.driver.send(&[Driver::payload(port, request.src_port, b"welcome")]);
        let expected = format!("OK {}\nwelcome", request.src_port);
        let mut found = vec![0; expected.len()];
        program.read_exact(&mut found).unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(String::from_utf8_lossy(&found), expected, "after {after}");
        self.end(port, request.src_port);
    }

    /// Ends a connection as a driver does: both directions, and waits for the device's reset.
    fn end(&mut self, guest_port: u32, host_port: u32) {
        let mut header = Driver::packet(Operation::Shutdown, guest_port, host_port);
        header.flags = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
        self.driver.send(&[(header, Vec::new())]);
        self.driver.expect_of(Operation::Reset, guest_port);
    }
}

#[test]
fn no_chain_of_descriptors_and_no_header_of_a_hostile_guest_ends_or_fills_the_device() {
    for notify in [Notify::Always, Notify::ByIndex] {
        let mut scene = Scene::new(notify);
        scene.assert_sound("the start");
        for (name, attack) in attacks::CHAINS.iter().chain(attacks::HEADERS).chain(attacks::RINGS) {
            eprintln!("{notify:?}: {name}");
            attack(&mut scene);
            scene.device.assert_alive(name);
            scene.driver.reset();
            scene.assert_sound(name);
        }
        let Scene { device, driver, .. } = scene;
        drop(driver);
        let (status, said) = device.ended();
        assert!(status.success(), "{status}: {said}");
        assert!(said.len() < 64 * 1024, "a guest fills the diagnostics: {} bytes", said.len());
    }
}

#[test]
fn no_flood_of_a_hostile_guest_fills_the_device_or_stands_in_the_way_of_others() {
    let mut scene = Scene::new(Notify::ByIndex);
    for (name, flood) in floods::FLOODS {
        eprintln!("{name}");
        flood(&mut scene);
        scene.assert_sound(name);
    }
}

#[test]
fn a_device_whose_rings_are_broken_still_ends_with_its_qemu() {
    for (name, attack) in attacks::RINGS {
        let mut scene = Scene::new(Notify::Always);
        attack(&mut scene);
        let Scene { device, driver, .. } = scene;
        drop(driver);
        let (status, said) = device.ended();
        assert!(status.success(), "{name}: {status}: {said}");
    }
}

/// A program of the host that the device looks at and lets go of.
fn pass_by(device: &Device) {
    let mut program = UnixStream::connect(device.uds()).expect("connect");
    program.set_read_timeout(Some(SOON)).expect("a timeout");
    program.write_all(b"GET /\n").expect("ask");
    assert_eq!(program.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn rings_that_are_not_set_up_are_not_written() {
    let device = Device::start();
    let mut driver = Driver::connect(&device, Notify::Always);
    let untouched = vec![0xff; 0x1_0000];
    driver.memory.write_slice(&untouched, GuestAddress(0)).expect("written");
    let assert_untouched = |driver: &Driver, when: &str| {
        pass_by(&device);
        // The device answers this when it is done with that.
        driver.share_memory();
        let mut found = vec![0; untouched.len()];
        driver.memory.read_slice(&mut found, GuestAddress(0)).expect("read");
        assert!(found == untouched, "{when}");
    };
    assert_untouched(&driver, "before the driver came");
    driver.start_rings();
    driver.say(Operation::Payload, 1, NOBODY);
    driver.expect_of(Operation::Reset, 1);
    driver.stop_rings();
    assert_untouched(&driver, "after the driver has gone");
}
