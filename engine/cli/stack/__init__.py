"""``lambda-engine deploy TEMPLATE``: CloudFormation templates, SAM's and CDK's among them, made real on an engine."""
