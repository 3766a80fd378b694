//! A message on SIGBUS, where the system would only kill the program. Weights are read from mapped
//! files. If a mapping has lost its file's data, because the file was truncated or its disk failed,
//! reading it raises SIGBUS.

#[cfg(unix)]
pub(super) use unix::Region;
#[cfg(unix)]
pub use unix::explain_sigbus;

/// Does nothing: this system has no SIGBUS.
#[cfg(not(unix))]
pub fn explain_sigbus(_exit_code: u8) {}

#[cfg(unix)]
mod unix {
    use std::path::Path;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering::SeqCst};

    /// The mapped ranges of this process, newest first. A node is never freed, so that the handler
    /// may walk the list at any time; each takes about 200 bytes.
    static NEWEST: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());
    static EXIT_CODE: AtomicI32 = AtomicI32::new(0);
    /// The previous handler, which receives all signals that do not concern weights.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    struct Node {
        start: usize,
        /// 0 after the range is unmapped.
        end: AtomicUsize,
        sentence: String,
        older: AtomicPtr<Node>,
    }

    /// A mapped range, known to the handler until it is dropped.
    pub(in super::super) struct Region(&'static Node);

    impl Region {
        pub(in super::super) fn new(map: &[u8], path: &Path) -> Self {
            let path: String = path.display().to_string().replace(char::is_control, "\u{fffd}");
            let sentence = format!(
                "error: {path}: the file became shorter while it was in use, or its disk failed; \
                 run this again once nothing writes to the file\n"
            );
            let range = map.as_ptr_range();
            let (start, end) = (range.start as usize, AtomicUsize::new(range.end as usize));
            let older = AtomicPtr::default();
            let node = ptr::from_mut(Box::leak(Box::new(Node { start, end, sentence, older })));
            // SAFETY: the node was just leaked, and from here on it is accessed only by shared
            // references.
            let shared: &'static Node = unsafe { &*node };
            let link = |newest| {
                shared.older.store(newest, SeqCst);
                Some(node)
            };
            let _ = NEWEST.fetch_update(SeqCst, SeqCst, link);
            Self(shared)
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            self.0.end.store(0, SeqCst);
        }
    }

    /// Ends the process with a message on standard error and `exit_code` when it reads a mapped
    /// weights file that has lost its data. Without this function the system kills the process.
    /// Meant for a program, which owns its signal handlers; only the first call has an effect.
    pub fn explain_sigbus(exit_code: u8) {
        EXIT_CODE.store(exit_code.into(), SeqCst);
        BEFORE.get_or_init(|| {
            // SAFETY: all fields of the two structs may be zero, the handler has the type that
            // SA_SIGINFO requires, and it calls only async-signal-safe functions.
            unsafe {
                let mut before: libc::sigaction = std::mem::zeroed();
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
                action.sa_sigaction = handler as libc::sighandler_t;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(libc::SIGBUS, &action, &mut before);
                before
            }
        });
    }

    extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid siginfo.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
        // Codes above 0 are the system's; a signal from `kill` has no address.
        if code > 0 {
            let mut node = NEWEST.load(SeqCst).cast_const();
            // SAFETY: nodes are never freed and are only shared.
            while let Some(Node { start, end, sentence, older }) = unsafe { node.as_ref() } {
                if (*start..end.load(SeqCst)).contains(&address) {
                    // SAFETY: both functions are async-signal-safe, and the bytes are never freed.
                    unsafe {
                        libc::write(2, sentence.as_ptr().cast(), sentence.len());
                        libc::_exit(EXIT_CODE.load(SeqCst));
                    }
                }
                node = older.load(SeqCst);
            }
        }
        pass_on(signal, info, context);
    }

    /// Passes the signal to the previous handler, or to the system's default action.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let before = BEFORE.get().filter(|before| ![libc::SIG_DFL, libc::SIG_IGN].contains(&before.sa_sigaction));
        match before {
            Some(before) if before.sa_flags & libc::SA_SIGINFO != 0 => {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: with SA_SIGINFO the address is that of a function of this type.
                let handler: Handler = unsafe { std::mem::transmute(before.sa_sigaction) };
                handler(signal, info, context);
            }
            Some(before) => {
                // SAFETY: without SA_SIGINFO the address is that of a function of this type.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(before.sa_sigaction) };
                handler(signal);
            }
            // SAFETY: both functions are async-signal-safe. The signal is blocked until this
            // handler returns.
            None => unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            },
        }
    }
}
