//! Registers that others published, from the inputs they published.

use super::*;

fn variable_rows() -> Vec<(&'static str, EfiGuid)> {
    let own = [("SecureBoot", GLOBAL_VARIABLE), ("PK", GLOBAL_VARIABLE), ("KEK", GLOBAL_VARIABLE)];
    own.into_iter().chain([("db", IMAGE_SECURITY_DATABASE), ("dbx", IMAGE_SECURITY_DATABASE)]).collect()
}

/// `gcp-tdx-1782809233226668671` of flashbots/attested-tls: registers of an Intel-signed quote, with their inputs.
mod gcp {
    use super::*;

    /// TD HOB template, and the MRTD and CFV digest, as published.
    const FIRMWARE: &str = include_str!("../../vectors/gcp-tdx-firmware-1782809233226668671.yaml");
    const RAM: u64 = 16 << 30;
    const RAM_THRESHOLD: u64 = 3_221_225_472;
    const LENGTH_OFFSET: usize = 576;
    /// A signature list with an empty certificate, which Google stores in PK, KEK, db and dbx.
    const EMPTY_LIST: &str =
        "a159c0a5e494a74a87b5ab155c2bf072340000000000000018000000d2fa81d2888da44797925baa47bb1b893082010a02820101";

    fn hob() -> Vec<u8> {
        let text =
            FIRMWARE.lines().map(str::trim).skip_while(|line| !line.starts_with("bytes:")).nth(1).expect("HOB bytes");
        let mut bytes = hex::decode(text).expect("hex");
        bytes[LENGTH_OFFSET..LENGTH_OFFSET + 8].copy_from_slice(&(RAM - RAM_THRESHOLD).to_le_bytes());
        bytes
    }

    #[test]
    fn rtmr0_of_a_google_cloud_quote_is_recomputed() {
        let list = hex::decode(EMPTY_LIST).expect("hex");
        let variables = variable_rows()
            .into_iter()
            .map(|(name, guid)| variable_digest(&guid, name, if name == "SecureBoot" { &[0] } else { &list }));
        let mut events = vec![
            sha384(&hob()),
            hex48("d10d31022a1ef32ee501f31745257f84e7c753a8b79a3fdb82ffda9dc57684a1cfefba3edcdabc8b4ea791c17dd8a02b"),
        ];
        events.extend(variables);
        events.push(sha384(&[0; 4]));
        events.extend([
            hex48("f60c35e53bb21b4675cfa8db310ec88e38cd369d8d463acdde815122fa8b893b8896a5783b538856693ed7645ddb897e"),
            hex48("509dcfe10beb5d470c40f25e30895370948831b9cf79db15d977e7bba8eb42f7200212071ad8b19d6011759779eced5a"),
            hex48("0bb0afa008873bdc20dee0f741da7896c2bfeee94ae52e9bdbf94bc87c32d04a4b1f1d824490f1dae574ff6d4e4bb0b3"),
            sha384(&[1, 0, 2, 0, 0, 0]),
            hex48("a25333c7aec2e0993034938c7f11893b3c2bcaf67e88c342a3d586f6f7fae2c6a1247a9ed86988080a6d4be497d4fbb6"),
            hex48("9068065754ff3ae3dd58a5897535eeaf62a19a6757d82dd91349c41bae2e3f208e268abba2a4378bc5c8d1acf2fd260f"),
            sha384(&load_option(0x109, "UiApp", ui_app())),
        ]);
        assert_eq!(events.len(), 15);
        assert_digest(
            replay(events),
            "8d2d6ad6e569271bace0ad7deab00245b6a951745c53dfe4590add762b55b9c91033ef9dc6153aaf7fb2d2fb1e4b952b",
        );
    }

    #[test]
    fn rtmr1_of_a_google_cloud_quote_is_recomputed() {
        let events = [
            sha384(b"Calling EFI Application from Boot Option"),
            sha384(&[0; 4]),
            hex48("488fa3f08aae01c1a46b497319e8a7d3b7335c9ff4f4d7fe6a3dd62c844b03de22157c0303be58f10e3152687778e68d"),
            hex48("82500f977e16a1e3fd47db792ac9c9fdd69caa73d8e719fe4489416355f23f5d0863ad796febfc1241bc3e868c3649a6"),
            hex48("b2a6076ae199d325e553a5102cf1f4a18b5e67e36b33261ef20352052199ec5853b5133c0231b16f1198bb086f1cbfac"),
            sha384(b"Exit Boot Services Invocation"),
            sha384(b"Exit Boot Services Returned with Success"),
        ];
        assert_digest(
            replay(events),
            "c89d429d47bf02018b2638504926ff17072db1fbf1c60b1c7b13908e8a3792b3d0e10e407fe93692022144cd1d6e51ad",
        );
    }

    #[test]
    fn rtmr2_of_a_google_cloud_quote_is_recomputed() {
        let events = [
            hex48("e03b89abf354a38976537b7a9138fd312e4cbf73b61eebc44086491701b1d167b9f6cb97a922325866c93e0834723d87"),
            hex48("99251a9997f552ce98364e3f7311ca47471e299b6fdb31226d738a10577959ab741cc2e7b8c268236153de568265d3f2"),
        ];
        assert_digest(
            replay(events),
            "9caa04c96af83d3c412d45d644e4570ed2530381d8d565452e0cfd2d7b09dfcbef49738f80e3070e23f150be4be5b942",
        );
    }
}

/// The path of the menu entry of older edk2, as the rules have it.
fn ui_app() -> &'static [u8] {
    match DIRECT_BOOT_2024.rtmr0.last() {
        Some(Event::BootOption { path, .. }) => path,
        other => panic!("expected a boot option, found {other:?}"),
    }
}

/// The direct boot of `CCEL_data_ovmf` (trustee): an older edk2 without firmware configuration events, whose separator went to RTMR0.
fn ccel() -> [Vec<Event>; 3] {
    let rtmr0 = DIRECT_BOOT_2024.rtmr0.iter().copied().chain([Event::Separator]).collect();
    let rtmr1 = DIRECT_BOOT_2024.rtmr1.iter().copied().filter(|event| *event != Event::Separator).collect();
    [rtmr0, rtmr1, DIRECT_BOOT_2024.rtmr2.to_vec()]
}

/// The variable store of a 4 MiB OVMF in which nothing is stored: header of the volume and of the store, and of the room for
/// unfinished writes (UEFI PI volume 3, edk2 `VarStore.fdf.inc`).
fn empty_store() -> Vec<u8> {
    let mut volume = vec![0xff; firmware::CODE_AT];
    let mut put = |at: usize, text: &str| {
        let bytes = hex::decode(text).expect("hex");
        volume[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    put(0, "000000000000000000000000000000008d2bf1ff96768b4ca9852747075b4f5000400800000000005f465648fffe0400");
    put(48, "4800afb80000000284000000001000000000000000000000782cf3aa7b949a43a1802e144ec37792b8ff03005afe000000000000");
    put(0x41000, "2b29589e687c7d49a0ce6500fd9f1b952caf2c64feffffffe00f000000000000");
    volume
}

#[test]
fn an_empty_variable_store_has_the_digest_that_quoted_event_logs_have() {
    let store = empty_store();
    assert_digest(
        sha384(&store),
        "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790",
    );
    assert_eq!(store::live_key(&store), None);
}

#[test]
fn the_event_log_of_a_direct_boot_is_reproduced_event_by_event() {
    let file = firmware::typical();
    let events = EventDigests {
        hob: sha384(&td_hob(&Tdvf::parse(&file).expect("metadata"), 2 << 30).expect("HOB")),
        configuration: sha384(&empty_store()),
        // Not in the log: as it states them.
        kernel: hex48(
            "a2ccae1e7d6c668ca325bb09c882d8ce44d26d714ba6f58d2e8083fe291a704646afe24a2368bca3341728d78ec80a80",
        ),
        command_line: hex48(
            "4230f84885a6f3f305e91a1955045398bd9edd8ffd2aaf2aab8ad3ac53476c4ac82a3675ef559c4ae949a06e84119fc2",
        ),
        initrd: hex48(
            "b15af9286108d3d8c9f794a51409e55bad6334f5d96a1e4469f8df2d75fd69aac648d939e13daf6800e82e6c1f6628c4",
        ),
        acpi: AcpiDigests {
            loader: hex48(
                "8db40217f1584456a532cd21ac440c8ee2204d497797a70b972d360a5eb2fde1be58be6fd9c6ea8ddac235f4db29a42c",
            ),
            rsdp: hex48(
                "379c9de60d0dd6862394273f66ad30e8707ba61b601e379e9c4718a026e06c66f78a5d98d3fd147b06d9398ccd4174ef",
            ),
            tables: hex48(
                "2213f7791b826d9e60cde6158fb77ae4ddaaf52bf58304c0c0d1350e374a64037b3e69e8759371b02b09fe904ece0718",
            ),
        },
    };
    let expected = [
        "0b8772e5b0b41b83",
        "344bc51c980ba621",
        "9dc3a1f80bcec915",
        "6f2e3cbc14f9def8",
        "d607c0efb41c0d75",
        "08a74f8963b337ac",
        "18cc6e01f0c6ea99",
        "394341b7182cd227",
        "8db40217f1584456",
        "379c9de60d0dd686",
        "2213f7791b826d9e",
        "1dd6f7b457ad880d",
        "23ada07f5261f12f",
        "394341b7182cd227",
    ];
    let [rtmr0, rtmr1, rtmr2] = ccel();
    assert_eq!(rtmr0.len(), expected.len());
    for (event, digest) in rtmr0.iter().zip(expected) {
        assert_digest(events.of(event), digest);
    }
    let register = |list: &[Event]| replay(list.iter().map(|event| events.of(event)));
    assert_digest(
        register(&rtmr0),
        "8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193",
    );
    assert_digest(
        register(&rtmr1),
        "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6",
    );
    assert_digest(
        register(&rtmr2),
        "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a",
    );
}

/// `quote-report.json` of dstack: QEMU 9.2.1, 64 GiB; its log replays to an Intel-signed quote (`coffer quote replay`).
#[test]
fn the_rules_for_older_firmware_are_the_events_of_a_quoted_log_in_their_order() {
    let file = firmware::typical();
    let given = |text: &str| hex48(&format!("{text:0<96}"));
    let events = EventDigests {
        hob: sha384(&td_hob(&Tdvf::parse(&file).expect("metadata"), 64 << 30).expect("HOB")),
        configuration: sha384(&empty_store()),
        kernel: given("0761fbfa317a42d8"),
        command_line: given("4027cb4ec64dbc24"),
        initrd: given("63e06e29cf98f2fc"),
        acpi: AcpiDigests {
            loader: given("2065dd48d647e437"),
            rsdp: given("772b0169c66b52e4"),
            tables: given("abfb2256644b5786"),
        },
    };
    let logs: [(&[Event], &[&str]); 3] = [
        (
            DIRECT_BOOT_2024.rtmr0,
            &[
                "8ae1e425351df799",
                "344bc51c980ba621",
                "9dc3a1f80bcec915",
                "6f2e3cbc14f9def8",
                "d607c0efb41c0d75",
                "08a74f8963b337ac",
                "18cc6e01f0c6ea99",
                "394341b7182cd227",
                "2065dd48d647e437",
                "772b0169c66b52e4",
                "abfb2256644b5786",
                "1dd6f7b457ad880d",
                "23ada07f5261f12f",
            ],
        ),
        (
            DIRECT_BOOT_2024.rtmr1,
            &["0761fbfa317a42d8", "77a0dab2312b4e1e", "394341b7182cd227", "214b0bef13797560", "0a2e01c85deae718"],
        ),
        (DIRECT_BOOT_2024.rtmr2, &["4027cb4ec64dbc24", "63e06e29cf98f2fc"]),
    ];
    for (rules, log) in logs {
        assert_eq!(rules.len(), log.len());
        for (event, digest) in rules.iter().zip(log) {
            assert_digest(events.of(event), digest);
        }
    }
}

/// QEMU offers it with every `-kernel`; current edk2 measures it behind the boot menu. The digest is that of the file as
/// QEMU 11.1.3 offers it.
#[test]
fn the_boot_order_that_qemu_makes_for_a_kernel_is_measured_behind_the_boot_menu() {
    let Some(Event::FirmwareConfiguration { data }) = DIRECT_BOOT.rtmr0.get(3) else { panic!("no boot order") };
    assert_digest(sha384(data), "53d3dbc006913283");
    assert_eq!(DIRECT_BOOT.rtmr0.get(2), Some(&Event::FirmwareConfiguration { data: &[0, 0] }));
}

#[test]
fn the_shipped_rules_put_the_separator_where_current_firmware_does() {
    // The event log of `quote-report.json` (dstack), which replays to its Intel-signed quote, has it in RTMR1 before the two
    // exits from boot services; so has the code of the firmware that Coffer ships.
    let position = |list: &[Event], event: Event| list.iter().position(|other| *other == event);
    assert_eq!(position(DIRECT_BOOT.rtmr1, Event::Separator), Some(2));
    assert_eq!(DIRECT_BOOT.rtmr0.iter().filter(|event| **event == Event::Separator).count(), 1);
}

#[test]
fn the_menu_entry_of_the_shipped_firmware_is_the_variable_that_its_guests_show() {
    let Some(Event::BootOption { attributes, description, path }) = DIRECT_BOOT.rtmr0.last() else {
        panic!("no boot option")
    };
    assert_eq!(
        hex::encode(load_option(*attributes, description, path)),
        "090100002c0042006f006f0074004d0061006e0061006700650072004d0065006e007500410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a1\
         04061400dc5bc2eef267954db1d5f81b2039d11d7fff0400"
    );
}
