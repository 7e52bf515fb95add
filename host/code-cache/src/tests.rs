//! Entries come back as they were, or not at all.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// The smallest component there is.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
const DIGEST: [u8; 32] = [7; 32];

fn entry(cache: &CodeCache) -> PathBuf {
    cache.path(&DIGEST)
}

fn filled(folder: &Path) -> (Engine, CodeCache) {
    let engine = Engine::default();
    let cache = CodeCache::open(folder, &engine).unwrap();
    cache.put(&DIGEST, &Component::new(&engine, EMPTY).unwrap()).unwrap();
    assert!(cache.get(&engine, &DIGEST).is_some());
    (engine, cache)
}

#[test]
fn code_comes_back_in_another_process_with_the_same_engine() {
    let folder = tempfile::tempdir().unwrap();
    let (_, cache) = filled(folder.path());
    let engine = Engine::default();
    let again = CodeCache::open(folder.path(), &engine).unwrap();
    assert_eq!(entry(&again), entry(&cache));
    assert!(again.get(&engine, &DIGEST).is_some());
    assert!(again.get(&engine, &[8; 32]).is_none());
}

#[test]
fn any_damage_removes_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, cache) = filled(folder.path());
    let good = fs::read(entry(&cache)).unwrap();
    let last = good.len() - 1;
    for position in [0, good.len() / 3, good.len() / 2, last - CHECKSUM_BYTES, last] {
        let mut bad = good.clone();
        bad[position] ^= 1;
        fs::write(entry(&cache), &bad).unwrap();
        assert!(cache.get(&engine, &DIGEST).is_none(), "byte {position}");
        assert!(!entry(&cache).exists());
    }
    for length in [0, 10, CHECKSUM_BYTES, last] {
        fs::write(entry(&cache), &good[..length]).unwrap();
        assert!(cache.get(&engine, &DIGEST).is_none(), "length {length}");
    }
    fs::write(entry(&cache), &good).unwrap();
    assert!(cache.get(&engine, &DIGEST).is_some());
}

#[test]
fn an_entry_of_another_component_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, cache) = filled(folder.path());
    fs::copy(entry(&cache), cache.path(&[8; 32])).unwrap();
    assert!(cache.get(&engine, &[8; 32]).is_none());
}

#[test]
fn what_others_may_write_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, cache) = filled(folder.path());
    fs::set_permissions(entry(&cache), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(cache.get(&engine, &DIGEST).is_none());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(CodeCache::open(folder.path(), &engine).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn another_engine_drops_what_it_cannot_use_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (_, cache) = filled(folder.path());
    fs::create_dir(folder.path().join("notes")).unwrap();
    let other = Engine::new(wasmtime::Config::new().consume_fuel(true)).unwrap();
    let others = CodeCache::open(folder.path(), &other).unwrap();
    assert_ne!(entry(&others), entry(&cache));
    assert!(!entry(&cache).exists());
    assert!(folder.path().join("notes").exists());
}

#[test]
fn the_oldest_entries_leave() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, cache) = filled(folder.path());
    let code = Component::new(&engine, EMPTY).unwrap();
    let aged = File::open(entry(&cache)).unwrap();
    aged.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    for index in 0..ENTRIES_MAX {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&index.to_be_bytes());
        cache.put(&digest, &code).unwrap();
    }
    assert!(!entry(&cache).exists());
    assert!(cache.get(&engine, &[0; 32]).is_some());
}
