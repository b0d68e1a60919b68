//! What the engine gives up before it hears the first byte from the network.
//!
//! Files: nothing but the queue, the data directory and the log's directory can be written, whatever its user ID allows
//! (landlock). System calls: no new programs, no other IDs, no other processes' memory, nothing that changes the kernel
//! or the mounts (seccomp). Both hold for every thread and cannot be taken back. A kernel without them runs the engine
//! all the same; the log says what is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use yamabiko_config::Config;

/// System calls that a mail engine has no use for. Denied with EPERM, so that a library that tries one goes on.
const DENIED: [libc::c_long; 31] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
];

/// Gives up what is not needed. Must be called before there is a second thread. Says what could not be given up.
pub fn enter(config: &Config) -> Vec<String> {
    let mut missing = Vec::new();
    match restrict_files(&writable(config)) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced, .. }) => {}
        Ok(_) => missing.push("this kernel has no landlock: the engine's access to files is not restricted".to_owned()),
        Err(error) => missing.push(format!("landlock: {error}: the engine's access to files is not restricted")),
    }
    if let Err(error) = restrict_calls() {
        missing.push(format!("seccomp: {error}: the engine's system calls are not restricted"));
    }
    missing
}

fn writable(config: &Config) -> Vec<PathBuf> {
    let main = config.main();
    let mut paths = vec![PathBuf::from(main.text("queue_directory")), PathBuf::from(main.text("data_directory"))];
    let log = main.text("maillog_file");
    if log.starts_with('/') && !log.starts_with("/dev/") {
        paths.extend(Path::new(&log).parent().map(Path::to_path_buf));
    }
    paths
}

fn restrict_files(writable: &[PathBuf]) -> Result<RestrictionStatus, landlock::RulesetError> {
    let abi = ABI::V3;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .create()?;
    if let Ok(root) = PathFd::new("/") {
        rules = rules.add_rule(PathBeneath::new(root, AccessFs::from_read(abi)))?;
    }
    for path in writable {
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, AccessFs::from_all(abi)))?;
        }
    }
    rules.restrict_self()
}

fn restrict_calls() -> Result<(), Box<dyn std::error::Error>> {
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // EPERM fits.
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}
