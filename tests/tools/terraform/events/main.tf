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
  name                = "terraform-events"
  assume_role_policy  = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = ["lambda.amazonaws.com", "scheduler.amazonaws.com", "states.amazonaws.com"] } }] })
  managed_policy_arns = [for name in ["service-role/AWSLambdaBasicExecutionRole", "service-role/AWSLambdaSQSQueueExecutionRole", "service-role/AWSLambdaKinesisExecutionRole", "service-role/AWSLambdaDynamoDBExecutionRole", "AmazonSQSFullAccess", "AmazonSNSFullAccess"] : "arn:aws:iam::aws:policy/${name}"]
}

resource "aws_lambda_function" "f" {
  function_name    = "terraform-events"
  role             = aws_iam_role.r.arn
  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  handler          = "app.handler"
  runtime          = var.runtime
  publish          = true
  timeout          = 20
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  function_name    = aws_lambda_function.f.function_name
  function_version = aws_lambda_function.f.version
}

resource "aws_sqs_queue" "dlq" { name = "terraform-events-dlq" }

resource "aws_sqs_queue" "q" {
  name                       = "terraform-events-q"
  visibility_timeout_seconds = 120
  redrive_policy             = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dlq.arn, maxReceiveCount = 3 })
}

resource "aws_sqs_queue" "fifo" {
  name                        = "terraform-events-q.fifo"
  fifo_queue                  = true
  content_based_deduplication = true
}

resource "aws_sqs_queue_policy" "q" {
  queue_url = aws_sqs_queue.dlq.id
  policy    = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Principal = { Service = "sns.amazonaws.com" }, Action = "sqs:SendMessage", Resource = aws_sqs_queue.dlq.arn }] })
}

resource "aws_kinesis_stream" "k" {
  name        = "terraform-events-k"
  shard_count = 1
}

resource "aws_kinesis_stream_consumer" "c" {
  name       = "cons"
  stream_arn = aws_kinesis_stream.k.arn
}

resource "aws_dynamodb_table" "t" {
  name             = "terraform-events-t"
  billing_mode     = "PAY_PER_REQUEST"
  hash_key         = "id"
  stream_enabled   = true
  stream_view_type = "NEW_AND_OLD_IMAGES"
  attribute {
    name = "id"
    type = "S"
  }
}

resource "aws_sns_topic" "t" { name = "terraform-events-topic" }

resource "aws_sns_topic_subscription" "s" {
  topic_arn     = aws_sns_topic.t.arn
  protocol      = "lambda"
  endpoint      = aws_lambda_function.f.arn
  filter_policy = jsonencode({ kind = ["a"] })
}

resource "aws_sns_topic_subscription" "sq" {
  topic_arn            = aws_sns_topic.t.arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.dlq.arn
  raw_message_delivery = true
}

resource "aws_lambda_permission" "sns" {
  statement_id  = "AllowSNS"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.f.function_name
  principal     = "sns.amazonaws.com"
  source_arn    = aws_sns_topic.t.arn
}

resource "aws_lambda_permission" "all" {
  statement_id_prefix = "pre-"
  action              = "lambda:InvokeFunction"
  function_name       = aws_lambda_function.f.arn
  qualifier           = aws_lambda_alias.live.name
  principal           = "s3.amazonaws.com"
  source_account      = "000000000000"
  source_arn          = "arn:aws:s3:::b"
}

resource "aws_lambda_permission" "acc" {
  action           = "lambda:GetFunction"
  function_name    = aws_lambda_function.f.function_name
  principal        = "*"
  principal_org_id = "o-abcdefghij"
}

resource "aws_lambda_permission" "alexa" {
  statement_id       = "alexa"
  action             = "lambda:InvokeFunction"
  function_name      = aws_lambda_function.f.function_name
  principal          = "alexa-appkit.amazon.com"
  event_source_token = "amzn1.ask.skill.x"
}

resource "aws_lambda_permission" "role" {
  statement_id  = "role"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.f.function_name
  principal     = aws_iam_role.r.arn
}

resource "aws_lambda_permission" "url" {
  statement_id           = "url"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.f.function_name
  principal              = "*"
  function_url_auth_type = "NONE"
}

resource "aws_lambda_event_source_mapping" "sqs" {
  event_source_arn                   = aws_sqs_queue.q.arn
  function_name                      = aws_lambda_alias.live.arn
  batch_size                         = 10 * var.round
  maximum_batching_window_in_seconds = 5
  enabled                            = var.round == 1
  scaling_config { maximum_concurrency = 2 + var.round }
  filter_criteria {
    filter { pattern = jsonencode({ body = { a = [1] } }) }
    filter { pattern = jsonencode({ body = { b = [{ exists = true }] } }) }
  }
  metrics_config { metrics = ["EventCount"] }
  function_response_types = ["ReportBatchItemFailures"]
  tags                    = { a = "b${var.round}" }
}

resource "aws_lambda_event_source_mapping" "fifo" {
  event_source_arn = aws_sqs_queue.fifo.arn
  function_name    = aws_lambda_function.f.arn
}

resource "aws_lambda_event_source_mapping" "kin" {
  event_source_arn               = aws_kinesis_stream.k.arn
  function_name                  = aws_lambda_function.f.function_name
  starting_position              = "LATEST"
  batch_size                     = 100
  parallelization_factor         = 2
  maximum_retry_attempts         = 1 + var.round
  maximum_record_age_in_seconds  = 3600
  bisect_batch_on_function_error = true
  tumbling_window_in_seconds     = 0
  destination_config {
    on_failure { destination_arn = aws_sqs_queue.dlq.arn }
  }
}

resource "aws_lambda_event_source_mapping" "con" {
  event_source_arn  = aws_kinesis_stream_consumer.c.arn
  function_name     = aws_lambda_function.f.arn
  starting_position = "LATEST"
}

resource "aws_lambda_event_source_mapping" "ddb" {
  event_source_arn           = aws_dynamodb_table.t.stream_arn
  function_name              = aws_lambda_function.f.arn
  starting_position          = "TRIM_HORIZON"
  tumbling_window_in_seconds = 30
  filter_criteria {
    filter { pattern = jsonencode({ eventName = ["INSERT"] }) }
  }
}

resource "aws_lambda_function_event_invoke_config" "c" {
  function_name                = aws_lambda_function.f.function_name
  maximum_event_age_in_seconds = 60 * var.round
  maximum_retry_attempts       = 0
  destination_config {
    on_failure { destination = aws_sqs_queue.dlq.arn }
    on_success { destination = aws_sns_topic.t.arn }
  }
}

resource "aws_lambda_function_event_invoke_config" "q" {
  function_name          = aws_lambda_alias.live.function_name
  qualifier              = aws_lambda_alias.live.name
  maximum_retry_attempts = 1
}

resource "aws_lambda_function_url" "u" {
  function_name      = aws_lambda_function.f.function_name
  authorization_type = "NONE"
  invoke_mode        = var.round == 1 ? "BUFFERED" : "RESPONSE_STREAM"
  cors {
    allow_credentials = true
    allow_origins     = ["https://a.example.com"]
    allow_methods     = ["GET", "POST"]
    allow_headers     = ["date", "keep-alive"]
    expose_headers    = ["keep-alive", "date"]
    max_age           = 86400
  }
}

resource "aws_lambda_function_url" "live" {
  function_name      = aws_lambda_function.f.function_name
  qualifier          = aws_lambda_alias.live.name
  authorization_type = "AWS_IAM"
}

resource "aws_lambda_function_recursion_config" "r" {
  function_name  = aws_lambda_function.f.function_name
  recursive_loop = var.round == 1 ? "Allow" : "Terminate"
}

resource "aws_lambda_runtime_management_config" "m" {
  function_name     = aws_lambda_function.f.function_name
  update_runtime_on = var.round == 1 ? "FunctionUpdate" : "Auto"
}

resource "aws_lambda_provisioned_concurrency_config" "p" {
  function_name                     = aws_lambda_alias.live.function_name
  qualifier                         = aws_lambda_alias.live.name
  provisioned_concurrent_executions = var.round
}

resource "aws_cloudwatch_event_rule" "r" {
  name                = "terraform-events-rule"
  schedule_expression = "rate(1 day)"
}

resource "aws_cloudwatch_event_target" "t" {
  rule  = aws_cloudwatch_event_rule.r.name
  arn   = aws_lambda_function.f.arn
  input = jsonencode({ x = 1 })
  retry_policy {
    maximum_event_age_in_seconds = 60
    maximum_retry_attempts       = 2
  }
  dead_letter_config { arn = aws_sqs_queue.dlq.arn }
}

resource "aws_cloudwatch_event_bus" "b" { name = "terraform-events-bus" }

resource "aws_cloudwatch_event_rule" "p" {
  name           = "terraform-events-pattern"
  event_bus_name = aws_cloudwatch_event_bus.b.name
  event_pattern  = jsonencode({ source = ["my.app"] })
  description    = "v${var.round}"
}

resource "aws_cloudwatch_event_target" "p" {
  rule           = aws_cloudwatch_event_rule.p.name
  event_bus_name = aws_cloudwatch_event_bus.b.name
  target_id      = "fn"
  arn            = aws_lambda_alias.live.arn
  input_transformer {
    input_paths    = { d = "$.detail" }
    input_template = "{\"d\": <d>}"
  }
}

resource "aws_scheduler_schedule_group" "g" { name = "terraform-events-g" }

resource "aws_scheduler_schedule" "s" {
  name       = "terraform-events-s"
  group_name = aws_scheduler_schedule_group.g.name
  flexible_time_window { mode = "OFF" }
  schedule_expression = "rate(${var.round} hours)"
  target {
    arn      = aws_lambda_function.f.arn
    role_arn = aws_iam_role.r.arn
    input    = jsonencode({ a = 1 })
    retry_policy { maximum_retry_attempts = 3 }
  }
}

resource "aws_sfn_state_machine" "m" {
  name       = "terraform-events"
  role_arn   = aws_iam_role.r.arn
  publish    = true
  definition = jsonencode({ StartAt = "A", States = { A = { Type = "Task", Resource = aws_lambda_alias.live.arn, TimeoutSeconds = 10 * var.round, End = true } } })
}

resource "aws_sfn_alias" "m" {
  name = "live"
  routing_configuration {
    state_machine_version_arn = aws_sfn_state_machine.m.state_machine_version_arn
    weight                    = 100
  }
}

resource "aws_s3_bucket" "b" {
  bucket        = "terraform-events-b"
  force_destroy = true
}

resource "aws_lambda_permission" "s3" {
  statement_id   = "s3"
  action         = "lambda:InvokeFunction"
  function_name  = aws_lambda_function.f.function_name
  principal      = "s3.amazonaws.com"
  source_arn     = aws_s3_bucket.b.arn
  source_account = "000000000000"
}

resource "aws_s3_bucket_notification" "n" {
  bucket      = aws_s3_bucket.b.id
  eventbridge = var.round == 2
  lambda_function {
    id                  = "one"
    lambda_function_arn = aws_lambda_function.f.arn
    events              = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    filter_prefix       = "in/"
    filter_suffix       = ".json"
  }
  depends_on = [aws_lambda_permission.s3]
}

resource "aws_cloudwatch_log_group" "l" { name = "/terraform/events" }

resource "aws_lambda_permission" "logs" {
  statement_id  = "logs"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.f.function_name
  principal     = "logs.amazonaws.com"
  source_arn    = "${aws_cloudwatch_log_group.l.arn}:*"
}

resource "aws_cloudwatch_log_subscription_filter" "l" {
  name            = "terraform-events"
  log_group_name  = aws_cloudwatch_log_group.l.name
  filter_pattern  = "ERROR"
  destination_arn = aws_lambda_function.f.arn
  depends_on      = [aws_lambda_permission.logs]
}

data "aws_lambda_function_url" "u" { function_name = aws_lambda_function_url.u.function_name }

data "aws_lambda_invocation" "i" {
  function_name = aws_lambda_function.f.function_name
  input         = jsonencode({ a = 1 })
}

resource "aws_lambda_invocation" "once" {
  function_name = aws_lambda_function.f.function_name
  qualifier     = aws_lambda_alias.live.name
  input         = jsonencode({ a = var.round })
}

resource "aws_lambda_invocation" "crud" {
  function_name   = aws_lambda_function.f.function_name
  lifecycle_scope = "CRUD"
  terraform_key   = "tf"
  input           = jsonencode({ a = var.round })
  triggers        = { v = var.round }
}

resource "aws_appautoscaling_target" "t" {
  max_capacity       = 4
  min_capacity       = 1
  resource_id        = "function:${aws_lambda_function.f.function_name}:${aws_lambda_alias.live.name}"
  scalable_dimension = "lambda:function:ProvisionedConcurrency"
  service_namespace  = "lambda"
  depends_on         = [aws_lambda_provisioned_concurrency_config.p]
}

resource "aws_appautoscaling_policy" "p" {
  name               = "util"
  policy_type        = "TargetTrackingScaling"
  resource_id        = aws_appautoscaling_target.t.resource_id
  scalable_dimension = aws_appautoscaling_target.t.scalable_dimension
  service_namespace  = aws_appautoscaling_target.t.service_namespace
  target_tracking_scaling_policy_configuration {
    target_value = 0.7
    predefined_metric_specification { predefined_metric_type = "LambdaProvisionedConcurrencyUtilization" }
  }
}

resource "aws_appautoscaling_scheduled_action" "a" {
  name               = "act"
  resource_id        = aws_appautoscaling_target.t.resource_id
  scalable_dimension = aws_appautoscaling_target.t.scalable_dimension
  service_namespace  = aws_appautoscaling_target.t.service_namespace
  schedule           = "cron(0 8 * * ? *)"
  scalable_target_action {
    min_capacity = 1
    max_capacity = 2
  }
}

output "url" {
  value = data.aws_lambda_function_url.u.function_url
}

output "said" {
  value = [data.aws_lambda_invocation.i.result, aws_lambda_invocation.once.result, aws_lambda_invocation.crud.result]
}
