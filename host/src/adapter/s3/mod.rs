//! Object store on S3 or a server that speaks its protocol. `put_new` is one PUT with `If-None-Match: *`, sent once:
//! whether it took effect is decided here only when the answer says so (I1, I5; decisions 12 and 21). Several
//! processes may use one bucket.

mod connect;
mod outcome;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use bytes::Bytes;

use crate::metrics::{Counter, ObjectRequests};
use crate::port::object_store::{Listing, ObjectStore, PutIf, PutNew};
use crate::port::{Error, Result};

pub use connect::{Keys, Options};
use outcome::{Answer, absent};

const WHAT: &str = "the object store";
/// Keys that one page of a listing holds at most: what S3 gives.
const PAGE_KEYS: usize = 1_000;
/// How long the body of an answer may take. Objects have at most some MiB.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// A bucket, or the part of it under a prefix.
#[derive(Debug)]
pub struct S3Store {
    /// Repeats by itself what may be repeated blindly. (What its calls give to wait for is large, hence boxed.)
    client: Client,
    /// Sends once: a repeated conditional write would be told that it exists by its own first attempt.
    once: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    requests: ObjectRequests,
    commits: Counter,
}

impl S3Store {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn putting(&self, client: &Client, key: &str, bytes: Bytes) -> PutObjectFluentBuilder {
        let put = client.put_object().bucket(&self.bucket).key(self.key(key));
        put.checksum_algorithm(ChecksumAlgorithm::Crc32C).body(ByteStream::from(bytes))
    }

    async fn fetch(&self, key: &str) -> Result<Option<(Bytes, Option<String>)>> {
        let get = self.client.get_object().bucket(&self.bucket).key(self.key(key));
        match Box::pin(get.checksum_mode(ChecksumMode::Enabled).send()).await {
            Ok(found) => {
                let e_tag = found.e_tag.clone();
                Ok(Some((body(found).await?, e_tag)))
            }
            Err(error) => match Answer::of(&error) {
                answer if absent(&answer) => Ok(None),
                answer => Err(answer.into_error()),
            },
        }
    }

    async fn compare_and_set(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        let put = self.putting(&self.once, key, bytes);
        let put = match expected {
            None => put.if_none_match("*"),
            Some(expected) => match self.fetch(key).await? {
                Some((present, Some(e_tag))) if present == expected => put.if_match(e_tag),
                Some((present, None)) if present == expected => {
                    return Err(Error::Corrupt { what: WHAT, reason: format!("{key} has no ETag") });
                }
                _ => return Ok(PutIf::Changed),
            },
        };
        match Box::pin(put.send()).await {
            Ok(_) => Ok(PutIf::Written),
            Err(error) => outcome::put_if(Answer::of(&error)),
        }
    }

    async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        let mut listing = Listing::default();
        loop {
            let wanted = (limit - listing.keys.len()).min(PAGE_KEYS);
            let after = listing.keys.last().map(String::as_str).or(after);
            let list = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(self.key(prefix))
                .set_start_after(after.map(|after| self.key(after)))
                .max_keys(i32::try_from(wanted).expect("a page has at most 1000 keys"));
            let page = Box::pin(list.send()).await.map_err(|error| Answer::of(&error).into_error())?;
            let before = listing.keys.len();
            for object in page.contents() {
                let key = object.key().unwrap_or_default();
                let Some(key) = key.strip_prefix(&self.prefix) else {
                    let reason = format!("a listing of {prefix} holds {key}");
                    return Err(Error::Corrupt { what: WHAT, reason });
                };
                listing.keys.push(key.to_owned());
            }
            listing.more = page.is_truncated().unwrap_or(false);
            // A page without keys that says there are more would be asked for again for ever.
            if !listing.more || listing.keys.len() >= limit || listing.keys.len() == before {
                return Ok(listing);
            }
        }
    }

    /// Notes how long an operation took and what came of it.
    fn noted<T>(
        &self,
        operation: &'static str,
        began: Instant,
        word: impl FnOnce(&T) -> &'static str,
        done: &Result<T>,
    ) {
        let outcome = match done {
            Ok(value) => word(value),
            Err(Error::Refused { .. }) => "refused",
            Err(_) => "failed",
        };
        self.requests.observe(operation, outcome, began.elapsed());
    }
}

async fn body(found: GetObjectOutput) -> Result<Bytes> {
    let away = |reason: String| Error::Unavailable { what: WHAT, reason };
    match tokio::time::timeout(BODY_WITHIN, found.body.collect()).await {
        Ok(Ok(bytes)) => Ok(bytes.into_bytes()),
        Ok(Err(error)) => Err(away(outcome::chain(&error))),
        Err(_) => Err(away("an answer did not end in time".into())),
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        let began = Instant::now();
        let done = match Box::pin(self.putting(&self.once, key, bytes).if_none_match("*").send()).await {
            Ok(_) => Ok(PutNew::Created),
            Err(error) => outcome::put_new(Answer::of(&error), key),
        };
        let word = |put: &PutNew| match put {
            PutNew::Created => "created",
            PutNew::Exists => "exists",
            PutNew::Unknown => "unknown",
        };
        self.noted("put_new", began, word, &done);
        if matches!(done, Ok(PutNew::Created)) {
            self.commits.add(1);
        }
        done
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let began = Instant::now();
        let done = self.fetch(key).await;
        self.noted("get", began, |found| if found.is_some() { "found" } else { "absent" }, &done);
        Ok(done?.map(|(bytes, _)| bytes))
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let began = Instant::now();
        let sent = Box::pin(self.putting(&self.client, key, bytes).send()).await;
        let done = sent.map(drop).map_err(|error| Answer::of(&error).into_error());
        self.noted("put", began, |()| "written", &done);
        done
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        let began = Instant::now();
        let done = self.compare_and_set(key, expected, bytes).await;
        let word = |put: &PutIf| match put {
            PutIf::Written => "written",
            PutIf::Changed => "changed",
        };
        self.noted("put_if", began, word, &done);
        done
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        let began = Instant::now();
        let done = self.page(prefix, after, limit).await;
        self.noted("list", began, |_| "listed", &done);
        done
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let began = Instant::now();
        let delete = self.client.delete_object().bucket(&self.bucket).key(self.key(key));
        let sent = Box::pin(delete.send()).await;
        let done = sent.map(drop).map_err(|error| Answer::of(&error).into_error());
        self.noted("delete", began, |()| "deleted", &done);
        done
    }
}
