//! The kernel's way in for news of changed files, tried from inside the guest: what it takes and what it refuses.

use anyhow::{Result, ensure};
use system_tests::Stage;

/// Prints a line for each message that is not answered as it should be.
const SCRIPT: &str = r#"
import errno, os, stat, struct
[device] = os.listdir('/sys/fs/virtiofs')
path = f'/sys/fs/virtiofs/{device}/notify'
mode = stat.S_IMODE(os.stat(path).st_mode)
if mode != 0o200: print('mode', oct(mode))

def answer(message):
    door = os.open(path, os.O_WRONLY)
    try: return os.write(door, message)
    except OSError as error: return errno.errorcode[error.errno]
    finally: os.close(door)

def message(code, body=b''): return struct.pack('<IiQ', 16 + len(body), code, 0) + body
def node(number): return message(2, struct.pack('<Qqq', number, 0, 0))
def entry(parent, name, said=None): return message(3, struct.pack('<QII', parent, len(name) if said is None else said, 1) + name + b'\0')
def event(parent, mask, name): return message(1001, struct.pack('<QIIII', parent, mask, 0, len(name), 0) + name + b'\0')

NOBODY = 1 << 60
for what, sent, expected in [
    ('everything', message(1002), 16),
    ('everything and more', message(1002, b'x'), 'EINVAL'),
    ('no header', b'x' * 15, 'EINVAL'),
    ('a length that lies', struct.pack('<IiQ', 17, 1002, 0), 'EINVAL'),
    ('an answer to a request', struct.pack('<IiQ', 16, 1002, 1), 'EINVAL'),
    ('an unknown code', message(99), 'ENOTSUP'),
    ('an unknown node', node(NOBODY), 'ENOENT'),
    ('half a node', message(2, b'x' * 23), 'EINVAL'),
    ('an unknown directory', entry(NOBODY, b'x'), 'ENOENT'),
    ('no name', entry(NOBODY, b''), 'ENAMETOOLONG'),
    ('a name that is too long', entry(NOBODY, b'x' * 256), 'ENAMETOOLONG'),
    ('a path', entry(NOBODY, b'a/b'), 'EINVAL'),
    ('a name with an end in it', entry(NOBODY, b'a\0b'), 'EINVAL'),
    ('a name shorter than said', entry(NOBODY, b'ab', 3), 'EINVAL'),
    ('a name longer than said', entry(NOBODY, b'abcd', 3), 'EINVAL'),
    ('an event in an unknown directory', event(NOBODY, 0x100, b'x'), 'ENOENT'),
    ('two events at once', event(NOBODY, 0x102, b'x'), 'EINVAL'),
    ('no event', event(NOBODY, 0, b'x'), 'EINVAL'),
    ('an event that is not of files', event(NOBODY, 0x4000, b'x'), 'EINVAL'),
]:
    got = answer(sent)
    if got != expected: print(f'{what}: {got}, not {expected}')
print('done')
"#;

pub fn the_kernel_takes_well_formed_notices_only(stage: &Stage) -> Result<()> {
    let finished = stage.run_in(&stage.project(), ["python3", "-c", SCRIPT]).finish()?;
    ensure!(finished.succeeded()? == "done", "{finished}");
    Ok(())
}
