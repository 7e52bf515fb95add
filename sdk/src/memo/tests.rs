use super::*;

#[test]
fn the_same_text_is_read_once_and_another_one_anew() {
    let (memo, reads) = (Memo::new(), std::cell::Cell::new(0));
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
    let memo = Memo::new();
    assert_eq!(memo.get(1, |_| Ok::<_, ()>("text")).as_deref(), Ok(&"text"));
    assert_eq!(memo.get(1, |_| Ok::<_, ()>(7u32)).as_deref(), Ok(&7));
}
