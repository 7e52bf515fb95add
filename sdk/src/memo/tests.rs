//! What was read once is given again for the same text, and only for it.

use super::*;

#[test]
fn the_same_text_is_read_once_and_another_one_anew() {
    let (memo, reads) = (Memo::<String>::new(), std::cell::Cell::new(0));
    let length = |text: &str| {
        memo.get(text.to_owned(), |text| {
            reads.set(reads.get() + 1);
            if text.is_empty() { Err("empty") } else { Ok(text.len()) }
        })
    };
    assert_eq!((length("one").as_deref(), length("one").as_deref(), reads.get()), (Ok(&3), Ok(&3), 1));
    assert_eq!((length("three").as_deref(), reads.get()), (Ok(&5), 2));
    assert_eq!((length(""), length(""), reads.get()), (Err("empty"), Err("empty"), 4));
    assert_eq!((length("three").as_deref(), reads.get()), (Ok(&5), 4));
}

#[test]
fn a_value_of_another_type_is_read_anew() {
    let memo = Memo::<u8, 2>::new();
    assert_eq!(memo.get(1, |_| Ok::<_, ()>("text")).as_deref(), Ok(&"text"));
    assert_eq!(memo.get(1, |_| Ok::<_, ()>(7u32)).as_deref(), Ok(&7));
}

#[test]
fn the_oldest_of_several_is_forgotten() {
    let (memo, reads) = (Memo::<u8, 2>::new(), std::cell::Cell::new(0));
    let read = |key: u8| {
        memo.get(key, |key| {
            reads.set(reads.get() + 1);
            Ok::<_, ()>(*key)
        })
    };
    for key in [1, 2, 1, 2, 3, 2, 3] {
        assert_eq!(read(key).as_deref(), Ok(&key));
    }
    assert_eq!(reads.get(), 3);
    assert_eq!((read(1).as_deref(), reads.get()), (Ok(&1), 4));
}
