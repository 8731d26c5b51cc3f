"""The HTTP front of APIs: requests to API Gateway's addresses become invocations here, without the control plane."""
