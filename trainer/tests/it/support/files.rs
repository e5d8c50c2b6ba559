//! Waiting for files of other processes, and changing files.

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// Time to wait before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Changes the last byte of a file, and the second time back. Its size stays.
pub fn alter(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Waits until the directory has an entry whose name starts with `prefix`.
pub fn appears(directory: &Path, prefix: &'static str) -> PathBuf {
    let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    if let Some(path) = entries.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
    {
        return path;
    }
    let (found_to, found) = channel();
    std::thread::spawn(move || {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(watch, &mut buffer);
        while let Ok(event) = events.next() {
            let name = event.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                let _ = found_to.send(name);
                return;
            }
        }
    });
    let name = found.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {prefix} in {}", directory.display()));
    directory.join(name)
}
