const { trace } = require("@opentelemetry/api");
exports.handler = async (event) =>
  trace.getTracer("test").startActiveSpan("span-of-the-function", async (span) => {
    try {
      if (event === "fail") throw new Error("on purpose");
      return event;
    } finally {
      span.end();
    }
  });
