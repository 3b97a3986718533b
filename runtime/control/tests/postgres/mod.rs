//! A PostgreSQL server of the test's own, on a socket in a temporary folder.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
/// `nobody`: PostgreSQL does not run as root.
const NOBODY: u32 = 65534;

pub struct Server {
    folder: TempDir,
    child: Child,
}

impl Server {
    pub fn start() -> Self {
        let programs = programs();
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        }
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&programs.join("initdb"));
        initdb.args(["--auth=trust", "--username=sdc", "--no-sync", "--no-instructions", "-D"]);
        let made = initdb.arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = unprivileged(&programs.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-h", "", "-F"]);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = server.stderr(log).stdout(Stdio::null()).spawn().unwrap();
        let this = Self { folder, child };
        this.wait_ready(&programs);
        this
    }

    pub fn url(&self) -> String {
        format!("postgres://sdc@localhost/postgres?host={}", self.folder.path().display())
    }

    fn wait_ready(&self, programs: &Path) {
        let begin = Instant::now();
        let mut ready = Command::new(programs.join("pg_isready"));
        ready.args(["-q", "-h"]).arg(self.folder.path());
        while !ready.status().unwrap().success() {
            let log = || std::fs::read_to_string(self.folder.path().join("log"));
            assert!(begin.elapsed() < LIMIT, "PostgreSQL does not start: {:?}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT is its fast shutdown, which takes the processes that it has forked along.
        drop(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status());
        drop(self.child.wait());
    }
}

/// Where Debian puts the programs of the newest version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("bin")).filter(|bin| bin.join("initdb").exists());
    found.max().expect("PostgreSQL is missing: apt-get install postgresql")
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(program);
    command
}
