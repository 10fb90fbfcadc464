//! Names that change under whoever uses them, as fast as the guest can: no try of many gets anywhere. `COFFER_TEST_TRIES` says how many.

use anyhow::{Context as _, ensure};

use crate::tools::{Left, Session};

/// Tries of each race when nobody says otherwise.
const TRIES: u64 = 4_000;
/// Reads by the file tool beside them.
const READS: usize = 24;

/// A directory and a link to the maker's own exchange their names, in what the reader may read.
const EXCHANGE: &str = "import ctypes, os, select\n\
    c = ctypes.CDLL(None)\n\
    open('/workspace/maker/f', 'w').write('secret')\nos.chdir('/workspace/shared')\n\
    os.mkdir('x')\nopen('x/f', 'w').write('inside')\nos.symlink('/workspace/maker', 'y')\n\
    print('up', flush=True)\ncount = 0\n\
    while not select.select([0], [], [], 0)[0]:\n \
     for _ in range(50):\n  \
      if c.syscall(316, -100, b'x', -100, b'y', 2): raise SystemExit('no exchange')\n  \
      count += 1\n\
    print(count)";

/// A directory goes out of what is granted and comes back.
const CARRY: &str = "import os, select\n\
    os.chdir('/workspace')\nos.makedirs('deep/sub')\nos.makedirs('out')\nopen('out/secret', 'w').write('secret')\n\
    print('up', flush=True)\ncount = 0\n\
    while not select.select([0], [], [], 0)[0]:\n \
     for _ in range(50): os.rename('deep/sub', 'out/sub'); os.rename('out/sub', 'deep/sub'); count += 1\n\
    print(count)";

/// Reads through the name that changes: how often what is inside, what is not, and nothing.
fn read(tries: u64) -> String {
    format!(
        "import os\ncounts = [0, 0, 0]\n\
         for n in range({tries}):\n \
          try: f = os.open('/workspace/shared/x/f', os.O_RDONLY)\n \
          except (FileNotFoundError, PermissionError): counts[2] += 1\n \
          else: counts[os.read(f, 9) != b'inside'] += 1; os.close(f)\n\
         print(*counts)"
    )
}

/// Stands in the directory that goes and comes, and looks beside it: how often it was where it may be, what is outside was read, and
/// it was out of reach.
fn beside(tries: u64) -> String {
    format!(
        "import os\ncounts = [0, 0, 0]\n\
         while True:\n \
          try: os.chdir('/workspace/deep/sub'); break\n \
          except OSError: pass\n\
         for n in range({tries}):\n \
          try: f = os.open('../secret', os.O_RDONLY); counts[1] += 1; os.close(f)\n \
          except OSError: pass\n \
          try: counts[0] += os.getcwd() == '/workspace/deep/sub'\n \
          except OSError: counts[2] += 1\n\
         print(*counts)"
    )
}

fn counts(said: &str) -> anyhow::Result<[u64; 3]> {
    let numbers: Vec<u64> =
        said.split_whitespace().map(str::parse).collect::<Result<_, _>>().context(said.to_owned())?;
    numbers.try_into().map_err(|_| anyhow::anyhow!("expected three counts, found {said}"))
}

pub(crate) async fn names(session: &Session) -> anyhow::Result<()> {
    let tries = std::env::var("COFFER_TEST_TRIES").map_or(Ok(TRIES), |tries| tries.parse())?;
    let exchanging = session.going("maker", EXCHANGE).await?;
    let [inside, secret, gone] = counts(&session.script("reader", &read(tries)).await?)?;
    ensure!(secret == 0 && inside > 0 && gone > 0, "{inside} inside, {secret} of another's, {gone} nothing");
    // The file tool, beside it; who made the link gets through it, and so did the race happen.
    let (mut found, mut refused) = (0, 0);
    for _ in 0..READS {
        match session.ask("reader", crate::tools::Asked::Read, "shared/x/f", Left::By(&["reader-reads"])).await {
            Ok(content) => {
                ensure!(content == b"inside", "{}", String::from_utf8_lossy(&content));
                found += 1;
            }
            Err(_) => refused += 1,
        }
    }
    let [_, own, _] = counts(&session.script("maker", &read(TRIES)).await?)?;
    let exchanged = exchanging.end().await?.out;
    println!(
        "{tries} tries: {inside} inside, {gone} nothing; the tool: {found} inside, {refused} refused; {} exchanges",
        exchanged.trim().trim_start_matches("up").trim()
    );
    ensure!(own > 0, "the control: the maker never met the link");

    let carrying = session.going("owner", CARRY).await?;
    let [here, secret, away] = counts(&session.script("nested", &beside(tries)).await?)?;
    let [_, own, _] = counts(&session.script("owner", &beside(TRIES)).await?)?;
    let carried = carrying.end().await?.out;
    println!(
        "{tries} tries: {here} inside, {away} out of reach; {} times out and back",
        carried.trim().trim_start_matches("up").trim()
    );
    ensure!(secret == 0 && here > 0 && away > 0, "{here} inside, {secret} of another's, {away} out of reach");
    ensure!(own > 0, "the control: the owner never was outside");
    Ok(())
}
