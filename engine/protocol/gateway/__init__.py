"""API Gateway and load balancers as values: their definitions, which route a request takes, events and answers. Pure."""
