//! Reaching a bucket: credentials, region, time limits, and the checks without which a log is not entrusted to it.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    ConfigBag, Credentials, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use uuid::Uuid;

use super::outcome::{Answer, absent};
use super::{S3Store, WHAT};
use crate::metrics::{Metrics, ObjectRequests, Sync};
use crate::port::{Error, Result};

/// Time limits. The SDK has none for an attempt by default, so that a server which does not answer would hold a
/// commit for ever.
pub(super) const LIMITS: Limits =
    Limits { connect: Duration::from_secs(3), attempt: Duration::from_secs(5), operation: Duration::from_secs(20) };
const ATTEMPTS_MAX: u32 = 3;
/// Where S3 puts a bucket when nothing is said; other servers take any.
const REGION_DEFAULT: &str = "us-east-1";

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub connect: Duration,
    /// Time enough for the greatest segment on a slow line; after it the commit is repeated, same bytes to the same
    /// key.
    pub attempt: Duration,
    /// For calls that the SDK repeats by itself, with its pauses.
    pub operation: Duration,
}

/// Which bucket, and how to get there.
#[derive(Debug, Clone)]
pub struct Options {
    pub bucket: String,
    /// Empty, or without slashes at its ends.
    pub prefix: String,
    /// Of a server other than AWS.
    pub endpoint: Option<String>,
    /// `None`: the default chain of AWS (variables, profiles, roles of the machine).
    pub keys: Option<Keys>,
}

/// A pair of keys; shows nothing of itself.
#[derive(Clone)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(***)")
    }
}

impl S3Store {
    /// Opens the bucket, and makes it when it is missing. `run` names a key that nobody ever wrote.
    pub async fn open(options: Options, run: Uuid, metrics: &Metrics) -> Result<S3Store> {
        let (store, region) = S3Store::connect(options, LIMITS, metrics).await;
        store.ensure_bucket(region.as_ref()).await?;
        store.ensure_absence_is_told(run).await?;
        Ok(store)
    }

    /// The clients; nothing is asked of the server yet.
    pub(super) async fn connect(options: Options, limits: Limits, metrics: &Metrics) -> (S3Store, Option<Region>) {
        let requests = metrics.object_requests();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(endpoint) = &options.endpoint {
            // A region asked for, but never one asked of a cloud that this server is not in.
            let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
            loader = loader.endpoint_url(endpoint).region(region.or_else(REGION_DEFAULT));
        } else {
            loader = loader.region(RegionProviderChain::default_provider().or_else(REGION_DEFAULT));
        }
        if let Some(keys) = &options.keys {
            let keys = Credentials::new(&keys.access, &keys.secret, None, None, "configuration");
            loader = loader.credentials_provider(keys);
        }
        let shared = Box::pin(loader.load()).await;
        let within = TimeoutConfig::builder().connect_timeout(limits.connect).operation_attempt_timeout(limits.attempt);
        let conf = aws_sdk_s3::config::Builder::from(&shared)
            // Names of buckets as host names are for AWS only.
            .force_path_style(shared.endpoint_url().is_some())
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported)
            .interceptor(Counting(requests.clone()));
        let repeating = within.clone().operation_timeout(limits.operation).build();
        let repeating = conf
            .clone()
            .timeout_config(repeating)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX));
        let once = within.operation_timeout(limits.attempt).build();
        let once = conf.timeout_config(once).retry_config(RetryConfig::disabled());
        let store = S3Store {
            client: Client::from_conf(repeating.build()),
            once: Client::from_conf(once.build()),
            prefix: if options.prefix.is_empty() { String::new() } else { format!("{}/", options.prefix) },
            bucket: options.bucket,
            requests,
            commits: metrics.syncs(Sync::Object),
        };
        (store, shared.region().cloned())
    }

    async fn ensure_bucket(&self, region: Option<&Region>) -> Result<()> {
        let head = self.client.head_bucket().bucket(&self.bucket);
        let Err(error) = Box::pin(head.send()).await else { return Ok(()) };
        match Answer::of(&error) {
            Answer::Said { status: 404, .. } => {}
            // Not allowed to ask: what the log needs of the bucket is tried next.
            Answer::Said { status: 403, .. } => return Ok(()),
            answer => return Err(answer.into_error()),
        }
        let place = region.map(Region::as_ref).filter(|region| *region != REGION_DEFAULT);
        let place = place.map(|region| {
            CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(region)).build()
        });
        let create = self.client.create_bucket().bucket(&self.bucket).set_create_bucket_configuration(place);
        let Err(error) = Box::pin(create.send()).await else {
            tracing::info!(bucket = self.bucket, "the bucket was missing; it was created");
            return Ok(());
        };
        match Answer::of(&error) {
            // Another process was faster.
            Answer::Said { code: Some(code), .. } if code == "BucketAlreadyOwnedByYou" => Ok(()),
            answer => Err(answer.into_error()),
        }
    }

    /// Where a log ends is told by a key that is absent. Without the permission to list, S3 says 403 to that, which
    /// also means "not allowed": a store that cannot tell the two apart is refused before the first read.
    async fn ensure_absence_is_told(&self, run: Uuid) -> Result<()> {
        let key = self.key(&format!("snapshots/probe/absent-{run}"));
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        let Err(error) = Box::pin(get.send()).await else {
            return Err(Error::Corrupt { what: WHAT, reason: "it holds a key that nobody wrote".into() });
        };
        match Answer::of(&error) {
            answer if absent(&answer) => Ok(()),
            Answer::Said { status: 403, message, .. } => {
                let reason = format!(
                    "403 for an object that does not exist ({message}): are the keys right, and may they do \
                     s3:GetObject, s3:PutObject, s3:DeleteObject on the objects and s3:ListBucket on the bucket {}?",
                    self.bucket
                );
                Err(Error::Refused { what: WHAT, reason })
            }
            answer => Err(answer.into_error()),
        }
    }
}

/// Counts every attempt, repeated ones too: what a provider sends a bill for.
#[derive(Debug)]
struct Counting(ObjectRequests);

impl Intercept for Counting {
    fn name(&self) -> &'static str {
        "Counting"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let request = context.request();
        self.0.sent(match request.method() {
            "GET" if request.uri().contains("list-type=2") => "list",
            "GET" => "get",
            "PUT" => "put",
            "DELETE" => "delete",
            "HEAD" => "head",
            _ => "other",
        });
        Ok(())
    }
}
