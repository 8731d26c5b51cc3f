// The operations that tests/integration/test_official_clients.py asks every language for.
export const handler = async (event, context) => {
  console.log('handling', event.op);
  switch (event.op) {
    case 'error': throw new Error('boom');
    case 'exit': return process.exit(3);
    case 'sleep': await new Promise((done) => setTimeout(done, 1000 * event.seconds)); return event;
    case 'big': return 'x'.repeat(event.size);
    case 'context': return {
      request_id: context.awsRequestId, arn: context.invokedFunctionArn, deadline_ms: Date.now() + context.getRemainingTimeInMillis(),
      function: context.functionName, version: context.functionVersion, memory: Number(context.memoryLimitInMB),
      custom: context.clientContext.custom ?? context.clientContext.Custom, trace: process.env._X_AMZN_TRACE_ID,
    };
    default: return event;
  }
};
