package client;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.LinkedHashMap;
import java.util.Map;

/** The operations that tests/integration/test_official_clients.py asks every language for. */
public class Handler implements RequestHandler<Map<String, Object>, Object> {
    @Override
    public Object handleRequest(Map<String, Object> event, Context context) {
        String op = String.valueOf(event.get("op"));
        System.out.println("handling " + op);
        switch (op) {
            case "error":
                throw new IllegalStateException("boom");
            case "exit":
                Runtime.getRuntime().halt(3);
                return null;
            case "sleep":
                try {
                    Thread.sleep((long) (1000 * ((Number) event.get("seconds")).doubleValue()));
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
                return event;
            case "big":
                return "x".repeat(((Number) event.get("size")).intValue());
            case "context":
                Map<String, Object> all = new LinkedHashMap<>();
                all.put("request_id", context.getAwsRequestId());
                all.put("arn", context.getInvokedFunctionArn());
                all.put("deadline_ms", System.currentTimeMillis() + context.getRemainingTimeInMillis());
                all.put("function", context.getFunctionName());
                all.put("version", context.getFunctionVersion());
                all.put("memory", context.getMemoryLimitInMB());
                all.put("custom", context.getClientContext().getCustom());
                all.put("trace", System.getProperty("com.amazonaws.xray.traceHeader"));
                return all;
            default:
                return event;
        }
    }
}
