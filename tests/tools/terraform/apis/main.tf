terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "runtime" { type = string }

variable "package" { type = string }

variable "round" {
  type    = number
  default = 1
}

# Where the engine is comes from the environment: AWS_ENDPOINT_URL, AWS_REGION and the keys.
provider "aws" {
  s3_use_path_style = true
}

resource "aws_iam_role" "r" {
  name               = "terraform-apis"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = ["lambda.amazonaws.com", "apigateway.amazonaws.com"] } }] })
}

resource "aws_iam_role_policy_attachments_exclusive" "x" {
  role_name   = aws_iam_role.r.name
  policy_arns = ["arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole", "arn:aws:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"]
}

resource "aws_lambda_function" "f" {
  function_name    = "terraform-apis"
  role             = aws_iam_role.r.arn
  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  handler          = "app.handler"
  runtime          = var.runtime
}

# REST
resource "aws_api_gateway_rest_api" "a" {
  name        = "terraform-apis-rest"
  description = "v${var.round}"
  endpoint_configuration { types = ["REGIONAL"] }
  binary_media_types = ["image/png"]
}

resource "aws_api_gateway_resource" "p" {
  rest_api_id = aws_api_gateway_rest_api.a.id
  parent_id   = aws_api_gateway_rest_api.a.root_resource_id
  path_part   = "{proxy+}"
}

resource "aws_api_gateway_method" "m" {
  rest_api_id        = aws_api_gateway_rest_api.a.id
  resource_id        = aws_api_gateway_resource.p.id
  http_method        = "ANY"
  authorization      = "NONE"
  request_parameters = { "method.request.path.proxy" = true }
}

resource "aws_api_gateway_integration" "i" {
  rest_api_id             = aws_api_gateway_rest_api.a.id
  resource_id             = aws_api_gateway_resource.p.id
  http_method             = aws_api_gateway_method.m.http_method
  integration_http_method = "POST"
  type                    = "AWS_PROXY"
  uri                     = aws_lambda_function.f.invoke_arn
  timeout_milliseconds    = 5000
}

resource "aws_api_gateway_method" "o" {
  rest_api_id   = aws_api_gateway_rest_api.a.id
  resource_id   = aws_api_gateway_resource.p.id
  http_method   = "OPTIONS"
  authorization = "NONE"
}

resource "aws_api_gateway_integration" "o" {
  rest_api_id       = aws_api_gateway_rest_api.a.id
  resource_id       = aws_api_gateway_resource.p.id
  http_method       = aws_api_gateway_method.o.http_method
  type              = "MOCK"
  request_templates = { "application/json" = "{\"statusCode\": 200}" }
}

resource "aws_api_gateway_method_response" "o" {
  rest_api_id         = aws_api_gateway_rest_api.a.id
  resource_id         = aws_api_gateway_resource.p.id
  http_method         = aws_api_gateway_method.o.http_method
  status_code         = "200"
  response_parameters = { "method.response.header.Access-Control-Allow-Origin" = true }
}

resource "aws_api_gateway_integration_response" "o" {
  rest_api_id         = aws_api_gateway_rest_api.a.id
  resource_id         = aws_api_gateway_resource.p.id
  http_method         = aws_api_gateway_method.o.http_method
  status_code         = aws_api_gateway_method_response.o.status_code
  response_parameters = { "method.response.header.Access-Control-Allow-Origin" = "'*'" }
  depends_on          = [aws_api_gateway_integration.o]
}

resource "aws_api_gateway_authorizer" "au" {
  name                   = "au"
  rest_api_id            = aws_api_gateway_rest_api.a.id
  authorizer_uri         = aws_lambda_function.f.invoke_arn
  type                   = "TOKEN"
  identity_source        = "method.request.header.Authorization"
  authorizer_credentials = aws_iam_role.r.arn
}

resource "aws_api_gateway_deployment" "d" {
  rest_api_id = aws_api_gateway_rest_api.a.id
  triggers    = { v = sha1(jsonencode([aws_api_gateway_integration.i.id, var.round])) }
  lifecycle { create_before_destroy = true }
  depends_on = [aws_api_gateway_integration.i, aws_api_gateway_integration_response.o]
}

resource "aws_api_gateway_stage" "s" {
  deployment_id = aws_api_gateway_deployment.d.id
  rest_api_id   = aws_api_gateway_rest_api.a.id
  stage_name    = "prod"
  variables     = { v = var.round }
}

resource "aws_api_gateway_method_settings" "all" {
  rest_api_id = aws_api_gateway_rest_api.a.id
  stage_name  = aws_api_gateway_stage.s.stage_name
  method_path = "*/*"
  settings {
    metrics_enabled        = true
    throttling_burst_limit = 10
    throttling_rate_limit  = 5
  }
}

resource "aws_api_gateway_gateway_response" "gr" {
  rest_api_id        = aws_api_gateway_rest_api.a.id
  status_code        = "401"
  response_type      = "UNAUTHORIZED"
  response_templates = { "application/json" = "{\"message\":$context.error.messageString}" }
}

resource "aws_api_gateway_api_key" "k" { name = "terraform-apis-key" }

resource "aws_api_gateway_usage_plan" "u" {
  name = "terraform-apis-plan"
  api_stages {
    api_id = aws_api_gateway_rest_api.a.id
    stage  = aws_api_gateway_stage.s.stage_name
  }
  quota_settings {
    limit  = 20
    period = "WEEK"
  }
  throttle_settings {
    burst_limit = 5
    rate_limit  = 10
  }
}

resource "aws_api_gateway_usage_plan_key" "uk" {
  key_id        = aws_api_gateway_api_key.k.id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.u.id
}

resource "aws_lambda_permission" "rest" {
  statement_id  = "rest"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.f.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_api_gateway_rest_api.a.execution_arn}/*/*"
}

resource "aws_api_gateway_rest_api" "body" {
  name = "terraform-apis-openapi"
  body = jsonencode({
    openapi = "3.0.1"
    info    = { title = "terraform-apis-openapi", version = "1.0" }
    paths   = { "/x" = { get = { "x-amazon-apigateway-integration" = { httpMethod = "POST", type = "AWS_PROXY", uri = aws_lambda_function.f.invoke_arn, payloadFormatVersion = "1.0" } } } }
  })
}

# HTTP
resource "aws_apigatewayv2_api" "h" {
  name          = "terraform-apis-http"
  protocol_type = "HTTP"
  cors_configuration {
    allow_origins = ["*"]
    allow_methods = ["GET", "POST"]
    max_age       = 300 * var.round
  }
}

resource "aws_apigatewayv2_integration" "h" {
  api_id                 = aws_apigatewayv2_api.h.id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_function.f.invoke_arn
  integration_method     = "POST"
  payload_format_version = "2.0"
}

resource "aws_apigatewayv2_route" "h" {
  api_id    = aws_apigatewayv2_api.h.id
  route_key = "GET /pets/{id}"
  target    = "integrations/${aws_apigatewayv2_integration.h.id}"
}

resource "aws_apigatewayv2_route" "d" {
  api_id    = aws_apigatewayv2_api.h.id
  route_key = "$default"
  target    = "integrations/${aws_apigatewayv2_integration.h.id}"
}

resource "aws_apigatewayv2_authorizer" "h" {
  api_id           = aws_apigatewayv2_api.h.id
  name             = "jwt"
  authorizer_type  = "JWT"
  identity_sources = ["$request.header.Authorization"]
  jwt_configuration {
    audience = ["x"]
    issuer   = "https://issuer.example.com"
  }
}

resource "aws_cloudwatch_log_group" "g" { name = "/terraform/apis" }

resource "aws_apigatewayv2_stage" "h" {
  api_id      = aws_apigatewayv2_api.h.id
  name        = "$default"
  auto_deploy = true
  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.g.arn
    format          = "$context.requestId"
  }
  default_route_settings {
    throttling_burst_limit = 10
    throttling_rate_limit  = 5
  }
}

resource "aws_apigatewayv2_deployment" "h" {
  api_id      = aws_apigatewayv2_api.h.id
  description = "v${var.round}"
  triggers    = { v = var.round }
  lifecycle { create_before_destroy = true }
  depends_on = [aws_apigatewayv2_route.h]
}

resource "aws_apigatewayv2_stage" "m" {
  api_id          = aws_apigatewayv2_api.h.id
  name            = "manual"
  deployment_id   = aws_apigatewayv2_deployment.h.id
  stage_variables = { a = "b" }
}

resource "aws_apigatewayv2_api" "body" {
  name          = "terraform-apis-body"
  version       = "1.0"
  protocol_type = "HTTP"
  body = jsonencode({
    openapi = "3.0.1"
    info    = { title = "terraform-apis-body", version = "1.0" }
    paths   = { "/x" = { get = { "x-amazon-apigateway-integration" = { httpMethod = "POST", type = "AWS_PROXY", uri = aws_lambda_function.f.invoke_arn, payloadFormatVersion = "2.0" } } } }
  })
}

resource "aws_apigatewayv2_stage" "body" {
  api_id      = aws_apigatewayv2_api.body.id
  name        = "$default"
  auto_deploy = true
}

resource "aws_lambda_permission" "httpq" {
  function_name = aws_lambda_function.f.function_name
  action        = "lambda:InvokeFunction"
  principal     = "apigateway.amazonaws.com"
  source_arn    = "arn:aws:execute-api:us-east-1:000000000000:*"
}

output "addresses" { value = [aws_apigatewayv2_api.h.api_endpoint, aws_apigatewayv2_api.quick.api_endpoint, "${aws_apigatewayv2_api.body.api_endpoint}/x", "${aws_apigatewayv2_api.h.api_endpoint}/manual/pets/8"] }

resource "aws_lambda_permission" "http" {
  statement_id  = "http"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.f.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.h.execution_arn}/*/*"
}

# quick create
resource "aws_apigatewayv2_api" "quick" {
  name          = "terraform-apis-quick"
  protocol_type = "HTTP"
  target        = aws_lambda_function.f.arn
}

# WS
resource "aws_apigatewayv2_api" "w" {
  name                       = "terraform-apis-ws"
  protocol_type              = "WEBSOCKET"
  route_selection_expression = "$request.body.action"
}

resource "aws_apigatewayv2_integration" "w" {
  api_id           = aws_apigatewayv2_api.w.id
  integration_type = "AWS_PROXY"
  integration_uri  = aws_lambda_function.f.invoke_arn
}

resource "aws_apigatewayv2_route" "w" {
  for_each  = toset(["$connect", "$disconnect", "$default"])
  api_id    = aws_apigatewayv2_api.w.id
  route_key = each.key
  target    = "integrations/${aws_apigatewayv2_integration.w.id}"
}

resource "aws_apigatewayv2_stage" "w" {
  api_id      = aws_apigatewayv2_api.w.id
  name        = "ws"
  auto_deploy = true
}

# signing
resource "aws_signer_signing_profile" "p" {
  platform_id = "AWSLambda-SHA384-ECDSA"
  name        = "terraform_apis"
  signature_validity_period {
    value = 5
    type  = "YEARS"
  }
}

resource "aws_lambda_code_signing_config" "c" {
  description = "v${var.round}"
  allowed_publishers { signing_profile_version_arns = [aws_signer_signing_profile.p.version_arn] }
  policies { untrusted_artifact_on_deployment = "Warn" }
  tags = { a = "b" }
}

resource "aws_lambda_function" "signed" {
  function_name           = "terraform-apis-signed"
  role                    = aws_iam_role.r.arn
  filename                = var.package
  handler                 = "app.handler"
  runtime                 = var.runtime
  code_signing_config_arn = var.round == 1 ? aws_lambda_code_signing_config.c.arn : null
}

data "aws_lambda_code_signing_config" "c" { arn = aws_lambda_code_signing_config.c.arn }
