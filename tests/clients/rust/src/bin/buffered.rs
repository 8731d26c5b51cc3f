//! The operations that tests/integration/test_official_clients.py asks every language for.
use lambda_runtime::{service_fn, Error, LambdaEvent};
use serde_json::{json, Value};

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let op = event.payload["op"].as_str().unwrap_or_default().to_owned();
    println!("handling {op}");
    match op.as_str() {
        "error" => Err("boom".into()),
        "exit" => std::process::exit(3),
        "sleep" => {
            let seconds = event.payload["seconds"].as_f64().unwrap_or(0.0);
            tokio::time::sleep(std::time::Duration::from_secs_f64(seconds)).await;
            Ok(event.payload)
        }
        "big" => Ok(json!("x".repeat(event.payload["size"].as_u64().unwrap_or(0) as usize))),
        "context" => {
            let c = &event.context;
            Ok(json!({
                "request_id": c.request_id, "arn": c.invoked_function_arn, "deadline_ms": c.deadline,
                "function": c.env_config.function_name, "version": c.env_config.version, "memory": c.env_config.memory,
                "custom": c.client_context.as_ref().map(|x| &x.custom), "trace": c.xray_trace_id,
            }))
        }
        _ => Ok(event.payload),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handler)).await
}
