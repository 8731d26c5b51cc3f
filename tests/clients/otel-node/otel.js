// OpenTelemetry's own instrumentation of Lambda functions, loaded by NODE_OPTIONS before everything else.
const { OTLPTraceExporter } = require("@opentelemetry/exporter-trace-otlp-http");
const { AwsLambdaInstrumentation } = require("@opentelemetry/instrumentation-aws-lambda");
const { BatchSpanProcessor, NodeTracerProvider } = require("@opentelemetry/sdk-trace-node");

const exporter = new OTLPTraceExporter({ url: "http://localhost:4318/v1/traces" });
const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(exporter)] });
provider.register();
const instrumentation = new AwsLambdaInstrumentation();
instrumentation.setTracerProvider(provider);
