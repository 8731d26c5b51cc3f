// The client's language test function: the operations that tests/integration/test_official_clients.py asks every language for.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type event struct {
	Op      string  `json:"op"`
	Size    int     `json:"size"`
	Seconds float64 `json:"seconds"`
}

func handler(ctx context.Context, raw json.RawMessage) (any, error) {
	var e event
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	fmt.Println("handling", e.Op)
	switch e.Op {
	case "error":
		return nil, errors.New("boom")
	case "exit":
		os.Exit(3)
	case "sleep":
		time.Sleep(time.Duration(e.Seconds * float64(time.Second)))
	case "big":
		return strings.Repeat("x", e.Size), nil
	case "context":
		lc, _ := lambdacontext.FromContext(ctx)
		deadline, _ := ctx.Deadline()
		return map[string]any{
			"request_id": lc.AwsRequestID, "arn": lc.InvokedFunctionArn, "deadline_ms": deadline.UnixMilli(),
			"function": lambdacontext.FunctionName, "version": lambdacontext.FunctionVersion, "memory": lambdacontext.MemoryLimitInMB,
			"custom": lc.ClientContext.Custom, "trace": os.Getenv("_X_AMZN_TRACE_ID"),
		}, nil
	}
	return raw, nil
}

func main() { lambda.Start(handler) }
