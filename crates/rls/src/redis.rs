//! As much of Redis as counting needs: `INCRBY`, `EXPIRE … NX` and `TTL` over one connection.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// A Redis that does not answer in this time is down.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A Redis by its `host:port`; connected to at the first use, and again after a failure.
pub(crate) struct Redis {
    address: String,
    connection: Mutex<Option<BufStream<TcpStream>>>,
}

impl Redis {
    pub(crate) fn new(address: String) -> Self {
        Self { address, connection: Mutex::new(None) }
    }

    /// Adds `hits` to a counter that lives so many seconds: what it is then, and how many seconds it has left.
    pub(crate) async fn count(&self, key: &str, hits: u32, seconds: u64) -> Result<(u64, u64), String> {
        let (hits, seconds) = (hits.to_string(), seconds.to_string());
        let commands = [vec!["INCRBY", key, &hits], vec!["EXPIRE", key, &seconds, "NX"], vec!["TTL", key]];
        let mut connection = self.connection.lock().await;
        let answers = tokio::time::timeout(TIMEOUT, self.ask(&mut connection, &commands)).await;
        let failed = |why: String| format!("Redis at {}: {why}", self.address);
        match answers.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(answers) => match answers.as_slice() {
                [count, _, left] => {
                    Ok((u64::try_from(*count).unwrap_or(0), u64::try_from(*left).unwrap_or(0)))
                }
                _ => Err(failed("another number of answers".to_owned())),
            },
            Err(why) => {
                // What is left of its answers would be taken for those of the next question.
                *connection = None;
                Err(failed(why))
            }
        }
    }

    async fn ask(
        &self,
        connection: &mut Option<BufStream<TcpStream>>,
        commands: &[Vec<&str>],
    ) -> Result<Vec<i64>, String> {
        let stream = match connection {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
                connection.insert(BufStream::new(stream))
            }
        };
        let io = |error: std::io::Error| error.to_string();
        for command in commands {
            let mut text = format!("*{}\r\n", command.len());
            command.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
            stream.write_all(text.as_bytes()).await.map_err(io)?;
        }
        stream.flush().await.map_err(io)?;
        let mut answers = Vec::new();
        for _ in commands {
            let mut line = String::new();
            stream.read_line(&mut line).await.map_err(io)?;
            let number = line.strip_prefix(':').and_then(|number| number.trim_end().parse().ok());
            answers.push(number.ok_or_else(|| format!("`{}` is no number", line.trim_end()))?);
        }
        Ok(answers)
    }
}
