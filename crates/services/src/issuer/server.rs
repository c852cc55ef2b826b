//! The issuer over HTTP, and its `token` command.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::CACHE_CONTROL, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};

use super::{Algorithm, Keys};
use crate::{Error, Result, duration, serve};

/// The largest form with which a token may be asked for (bytes).
const MAX_FORM: usize = 64 << 10;

/// Tokens live this long when nothing else is asked for (seconds).
const TTL: i64 = 300;

/// No token lives longer, or ended longer ago (seconds): ten years.
const MAX_TTL: i64 = 10 * 365 * 24 * 3600;

/// How the issuer listens.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The address to listen on; port 0 takes a free one (the actual address is printed)
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// The issuer's URL (`iss`), when it is reached under another than http://<LISTEN>
    #[arg(long)]
    pub issuer: Option<String>,
    /// Keeps the keys in this directory, so that they survive a restart; without it they are new at every start
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// How long keys stay in the JWKS after a rotation
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    pub overlap: Duration,
}

/// What token to make without a server.
#[derive(Clone, Debug, clap::Args)]
pub struct TokenArgs {
    /// The directory with the issuer's keys
    #[arg(long)]
    pub state: PathBuf,
    /// The issuer's URL (`iss`)
    #[arg(long, default_value = "http://127.0.0.1:8090")]
    pub issuer: String,
    /// The subject (`sub`)
    #[arg(long)]
    pub sub: Option<String>,
    /// An audience (`aud`); may be repeated
    #[arg(long)]
    pub aud: Vec<String>,
    /// RS256, RS384, RS512 or ES256
    #[arg(long, default_value = "RS256")]
    pub alg: String,
    /// Seconds until it expires; negative: it expired that long ago
    #[arg(long, default_value_t = TTL, allow_negative_numbers = true)]
    pub ttl: i64,
    /// More claims, as a JSON object; they replace those above
    #[arg(long)]
    pub claims: Option<String>,
}

impl TokenArgs {
    /// The token.
    ///
    /// # Errors
    /// When the keys cannot be read, or a value cannot be used.
    pub fn token(&self) -> Result<String> {
        let keys = Keys::load_or_generate(&self.state)?;
        let mut wanted = Wanted { alg: self.alg.parse()?, ttl: self.ttl, ..Wanted::default() };
        wanted.sub.clone_from(&self.sub);
        wanted.aud.clone_from(&self.aud);
        if let Some(claims) = &self.claims {
            wanted.claims = object(claims)?;
        }
        wanted.check()?.token(&keys, &self.issuer, now()).map(|(token, _)| token)
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot listen, or its keys cannot be read.
pub async fn run(args: Args) -> Result<()> {
    let (listener, address) = serve::bind(args.listen).await?;
    let issuer = args.issuer.unwrap_or_else(|| format!("http://{address}"));
    let keys = match &args.state {
        Some(dir) => Keys::load_or_generate(dir)?,
        None => Keys::generate()?,
    };
    let keys = Mutex::new(keys);
    let server = Arc::new(Server { issuer, keys, state: args.state, overlap: args.overlap });
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/token", get(token).post(token))
        .route("/rotate", post(rotate))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .with_state(server);
    serve::serve("issuer", listener, router).await
}

#[derive(Debug)]
struct Server {
    issuer: String,
    keys: Mutex<Keys>,
    state: Option<PathBuf>,
    overlap: Duration,
}

impl Server {
    /// Keys are exchanged whole, so those behind a poisoned lock are good.
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn discovery(State(server): State<Arc<Server>>) -> Response {
    let issuer = &server.issuer;
    let base = issuer.trim_end_matches('/');
    answer(
        StatusCode::OK,
        &json!({
            "issuer": issuer,
            "jwks_uri": format!("{base}/.well-known/jwks.json"),
            "token_endpoint": format!("{base}/token"),
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "RS384", "RS512", "ES256"],
        }),
    )
}

async fn jwks(State(server): State<Arc<Server>>) -> Response {
    let jwks = server.keys().jwks();
    ([(CACHE_CONTROL, "max-age=60")], answer(StatusCode::OK, &jwks)).into_response()
}

/// The parameters come in the query of a GET or the form of a POST.
async fn token(State(server): State<Arc<Server>>, Form(parameters): Form<Vec<(String, String)>>) -> Response {
    let minted = Wanted::read(&parameters)
        .and_then(Wanted::check)
        .and_then(|wanted| wanted.token(&server.keys(), &server.issuer, now()));
    match minted {
        Ok((token, ttl)) => {
            let body = json!({"access_token": token, "token_type": "Bearer", "expires_in": ttl});
            ([(CACHE_CONTROL, "no-store")], answer(StatusCode::OK, &body)).into_response()
        }
        Err(error) => {
            let body = json!({"error": "invalid_request", "error_description": error.to_string()});
            answer(StatusCode::BAD_REQUEST, &body)
        }
    }
}

async fn rotate(State(server): State<Arc<Server>>) -> Response {
    match replace_keys(Arc::clone(&server)).await {
        Ok(retired) => {
            let jwks = server.keys().jwks();
            let forgetful = (Arc::clone(&server), retired.clone());
            tokio::spawn(async move {
                let (server, retired) = forgetful;
                tokio::time::sleep(server.overlap).await;
                server.keys().forget(&retired);
            });
            answer(StatusCode::OK, &json!({"retired": retired, "jwks": jwks}))
        }
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": error.to_string()})),
    }
}

/// Off the threads that serve: an RSA key takes long.
async fn replace_keys(server: Arc<Server>) -> Result<[String; 2]> {
    let work = tokio::task::spawn_blocking(move || {
        let fresh = Keys::generate()?;
        if let Some(dir) = &server.state {
            fresh.save(dir)?;
        }
        Ok(server.keys().replace(fresh))
    });
    work.await.map_err(|error| Error::Key(format!("could not make keys: {error}")))?
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// What was asked for.
#[derive(Debug)]
struct Wanted {
    sub: Option<String>,
    aud: Vec<String>,
    alg: Algorithm,
    ttl: i64,
    claims: Map<String, Value>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { sub: None, aud: Vec::new(), alg: Algorithm::Rs256, ttl: TTL, claims: Map::new() }
    }
}

impl Wanted {
    fn read(parameters: &[(String, String)]) -> Result<Self> {
        let mut wanted = Self::default();
        for (name, value) in parameters {
            match name.as_str() {
                "sub" => wanted.sub = Some(value.clone()),
                "aud" => wanted.aud.push(value.clone()),
                "alg" => wanted.alg = value.parse()?,
                "ttl" => {
                    let bad = |_| Error::invalid("ttl", format!("`{value}` is not a number of seconds"));
                    wanted.ttl = value.parse().map_err(bad)?;
                }
                "claims" => wanted.claims = object(value)?,
                // What OAuth clients send along; it changes nothing here.
                "grant_type" | "client_id" | "client_secret" | "scope" => {}
                other => {
                    let why = format!("`{other}` is none of sub, aud, alg, ttl, claims");
                    return Err(Error::invalid("parameter", why));
                }
            }
        }
        Ok(wanted)
    }

    fn check(self) -> Result<Self> {
        if (-MAX_TTL..=MAX_TTL).contains(&self.ttl) {
            return Ok(self);
        }
        Err(Error::invalid("ttl", format!("`{}` seconds is more than ten years", self.ttl)))
    }

    /// The token and how long it lives (seconds).
    fn token(self, keys: &Keys, issuer: &str, now: i64) -> Result<(String, i64)> {
        // One that expired was issued before that, so that nothing but the expiry is wrong with it.
        let issued = now.min(now + self.ttl - 1);
        let mut claims = json!({"iss": issuer, "iat": issued, "exp": now + self.ttl});
        if let Some(claims) = claims.as_object_mut() {
            if let Some(sub) = self.sub {
                claims.insert("sub".to_owned(), Value::from(sub));
            }
            match self.aud.as_slice() {
                [] => {}
                [one] => drop(claims.insert("aud".to_owned(), json!(one))),
                several => drop(claims.insert("aud".to_owned(), json!(several))),
            }
            claims.extend(self.claims);
        }
        Ok((keys.sign(&json!({"alg": self.alg.name()}), &claims)?, self.ttl))
    }
}

fn object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text)
        .map_err(|error| Error::invalid("claims", format!("not a JSON object: {error}")))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
