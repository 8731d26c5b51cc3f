//! Streams pieces with pauses, and breaks off when told to.
use lambda_runtime::streaming::{channel, Body, Response};
use lambda_runtime::{service_fn, Error, LambdaEvent};
use serde_json::Value;

async fn handler(event: LambdaEvent<Value>) -> Result<Response<Body>, Error> {
    let (mut tx, rx) = channel();
    let payload = event.payload;
    tokio::spawn(async move {
        let pause = std::time::Duration::from_secs_f64(payload["pause"].as_f64().unwrap_or(0.0));
        for piece in payload["pieces"].as_array().cloned().unwrap_or_default() {
            tx.send_data(piece.as_str().unwrap_or_default().to_owned().into()).await.unwrap();
            tokio::time::sleep(pause).await;
        }
        if payload["fail"].as_bool().unwrap_or(false) {
            tx.abort();
        }
    });
    Ok(Response::from(rx))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handler)).await
}
