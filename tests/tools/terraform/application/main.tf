terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "endpoint" { type = string }

variable "runtime" { type = string }

variable "package" { type = string }

variable "memory" {
  type    = number
  default = 128
}

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
  s3_use_path_style           = true
  endpoints {
    apigatewayv2 = var.endpoint
    dynamodb     = var.endpoint
    events       = var.endpoint
    iam          = var.endpoint
    lambda       = var.endpoint
    logs         = var.endpoint
    s3           = var.endpoint
    sqs          = var.endpoint
    sts          = var.endpoint
  }
}

resource "aws_iam_role" "function" {
  name = "terraform-real"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "logs" {
  role       = aws_iam_role.function.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/terraform-real"
  retention_in_days = 7
}

resource "aws_lambda_function" "function" {
  function_name                  = "terraform-real"
  filename                       = var.package
  source_code_hash               = filebase64sha256(var.package)
  handler                        = "app.handler"
  runtime                        = var.runtime
  role                           = aws_iam_role.function.arn
  memory_size                    = var.memory
  publish                        = true
  reserved_concurrent_executions = 5
  environment {
    variables = { STAGE = "test" }
  }
  tags       = { team = "a" }
  depends_on = [aws_cloudwatch_log_group.function, aws_iam_role_policy_attachment.logs]
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  function_name    = aws_lambda_function.function.function_name
  function_version = aws_lambda_function.function.version
}

resource "aws_lambda_function_url" "live" {
  function_name      = aws_lambda_function.function.function_name
  qualifier          = aws_lambda_alias.live.name
  authorization_type = "NONE"
}

resource "aws_lambda_function_event_invoke_config" "live" {
  function_name          = aws_lambda_function.function.function_name
  qualifier              = aws_lambda_alias.live.name
  maximum_retry_attempts = 0
}

resource "aws_sqs_queue" "inbox" {
  name                       = "terraform-real"
  visibility_timeout_seconds = 60
}

resource "aws_lambda_event_source_mapping" "inbox" {
  function_name           = aws_lambda_alias.live.arn
  event_source_arn        = aws_sqs_queue.inbox.arn
  batch_size              = 5
  function_response_types = ["ReportBatchItemFailures"]
  filter_criteria {
    filter {
      pattern = jsonencode({ body = { kind = ["order"] } })
    }
  }
}

resource "aws_s3_bucket" "uploads" {
  bucket = "terraform-real"
}

resource "aws_lambda_permission" "uploads" {
  statement_id  = "uploads"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.function.function_name
  principal     = "s3.amazonaws.com"
  source_arn    = aws_s3_bucket.uploads.arn
}

resource "aws_s3_bucket_notification" "uploads" {
  bucket = aws_s3_bucket.uploads.id
  lambda_function {
    lambda_function_arn = aws_lambda_function.function.arn
    events              = ["s3:ObjectCreated:*"]
    filter_prefix       = "in/"
  }
  depends_on = [aws_lambda_permission.uploads]
}

resource "aws_cloudwatch_event_rule" "daily" {
  name                = "terraform-real"
  schedule_expression = "rate(1 day)"
}

resource "aws_cloudwatch_event_target" "daily" {
  rule = aws_cloudwatch_event_rule.daily.name
  arn  = aws_lambda_function.function.arn
}

output "url" {
  value = aws_lambda_function_url.live.function_url
}
