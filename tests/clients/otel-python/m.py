"""A function with OpenTelemetry's own instrumentation, which sends spans to the collector beside it."""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint="http://localhost:4318/v1/traces")))
trace.set_tracer_provider(provider)


def handler(event, context):
    with trace.get_tracer("test").start_as_current_span("span-of-the-function"):
        if event == "fail":
            raise ValueError("on purpose")
        return event


AwsLambdaInstrumentor().instrument()
