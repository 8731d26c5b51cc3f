//! An external extension: subscribes to every event and to telemetry, and prints what it is told.
use lambda_extension::{service_fn, Error, Extension, LambdaEvent, LambdaTelemetry, LambdaTelemetryRecord, NextEvent, SharedService};

async fn on_event(event: LambdaEvent) -> Result<(), Error> {
    match event.next {
        NextEvent::Invoke(e) => println!("watch: invoke {} deadline {}", e.request_id, e.deadline_ms),
        NextEvent::Shutdown(e) => println!("watch: shutdown {}", e.shutdown_reason),
    }
    Ok(())
}

async fn on_telemetry(events: Vec<LambdaTelemetry>) -> Result<(), Error> {
    for event in events {
        match event.record {
            LambdaTelemetryRecord::Function(text) => println!("watch: function said {}", text.trim_end()),
            LambdaTelemetryRecord::Extension(_) => {}
            other => println!("watch: platform {other:?}"),
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    Extension::new()
        .with_events_processor(service_fn(on_event))
        .with_telemetry_types(&["platform", "function"])
        .with_telemetry_processor(SharedService::new(service_fn(on_telemetry)))
        .run()
        .await
}
