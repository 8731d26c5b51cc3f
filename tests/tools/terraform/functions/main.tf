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
  default_tags {
    tags = { Suite = "terraform" }
  }
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_caller_identity" "me" {}

data "aws_region" "here" {}

data "aws_partition" "p" {}

resource "aws_iam_role" "r" {
  name               = "terraform-functions"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_policy" "p" {
  name   = "terraform-functions"
  policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = ["logs:*", "sqs:*", "ec2:*NetworkInterface*"], Resource = "*" }] })
}

resource "aws_iam_role_policy_attachment" "a" {
  role       = aws_iam_role.r.name
  policy_arn = aws_iam_policy.p.arn
}

resource "aws_iam_role_policy" "inline" {
  role   = aws_iam_role.r.id
  policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "xray:*", Resource = "*" }] })
}

resource "aws_lambda_function" "minimal" {
  function_name = "terraform-minimal"
  role          = aws_iam_role.r.arn
  filename      = var.package
  handler       = "app.handler"
  runtime       = var.runtime
  dynamic "environment" {
    for_each = var.round == 1 ? [1] : []
    content { variables = { AA = "1" } }
  }
}

resource "aws_s3_bucket" "code" { bucket = "terraform-functions" }

resource "aws_s3_bucket_versioning" "code" {
  bucket = aws_s3_bucket.code.id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_object" "zip" {
  bucket      = aws_s3_bucket_versioning.code.bucket
  key         = "f.zip"
  source      = var.package
  source_hash = filemd5(var.package)
}

resource "aws_kms_key" "k" {
  description             = "env"
  deletion_window_in_days = 7
}

resource "aws_sqs_queue" "dlq" { name = "terraform-functions-dead" }

resource "aws_vpc" "v" { cidr_block = "10.0.0.0/16" }

resource "aws_subnet" "s" {
  vpc_id     = aws_vpc.v.id
  cidr_block = "10.0.1.0/24"
}

resource "aws_security_group" "g" {
  name   = "terraform-functions"
  vpc_id = aws_vpc.v.id
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_cloudwatch_log_group" "own" {
  name              = "/terraform/functions"
  retention_in_days = 3
}

resource "aws_lambda_layer_version" "l" {
  layer_name               = "terraform-layer"
  filename                 = var.package
  source_code_hash         = filebase64sha256(var.package)
  compatible_runtimes      = [var.runtime]
  compatible_architectures = ["x86_64"]
  description              = "desc"
  license_info             = "MIT"
}

resource "aws_lambda_layer_version_permission" "lp" {
  layer_name      = aws_lambda_layer_version.l.layer_name
  version_number  = aws_lambda_layer_version.l.version
  principal       = "*"
  action          = "lambda:GetLayerVersion"
  statement_id    = "all"
  organization_id = "o-abc1234567"
}

resource "aws_lambda_function" "full" {
  function_name                  = "terraform-full"
  description                    = "everything ${var.round}"
  role                           = aws_iam_role.r.arn
  s3_bucket                      = aws_s3_bucket.code.id
  s3_key                         = aws_s3_object.zip.key
  s3_object_version              = aws_s3_object.zip.version_id
  source_code_hash               = filebase64sha256(var.package)
  handler                        = "app.handler"
  runtime                        = var.runtime
  memory_size                    = 256
  timeout                        = 30
  publish                        = true
  architectures                  = ["x86_64"]
  layers                         = [aws_lambda_layer_version.l.arn]
  kms_key_arn                    = aws_kms_key.k.arn
  reserved_concurrent_executions = 3
  environment { variables = { AA = "1", VV = tostring(var.round) } }
  dead_letter_config { target_arn = aws_sqs_queue.dlq.arn }
  tracing_config { mode = "Active" }
  vpc_config {
    subnet_ids         = [aws_subnet.s.id]
    security_group_ids = [aws_security_group.g.id]
  }
  ephemeral_storage { size = 1024 }
  logging_config {
    log_format            = "JSON"
    application_log_level = "DEBUG"
    system_log_level      = "WARN"
    log_group             = aws_cloudwatch_log_group.own.name
  }
  replace_security_groups_on_destroy = true
  replacement_security_group_ids     = [aws_security_group.g.id]
  tags                               = { a = "b", "x:y" = "z w" }
  depends_on                         = [aws_iam_role_policy_attachment.a]
}

resource "aws_lambda_alias" "al" {
  name             = "al"
  description      = "d"
  function_name    = aws_lambda_function.full.arn
  function_version = "1"
  dynamic "routing_config" {
    for_each = var.round == 1 ? [] : [1]
    content { additional_version_weights = { "2" = 0.25 } }
  }
}

data "aws_lambda_function" "f" {
  function_name = aws_lambda_function.full.function_name
  qualifier     = aws_lambda_alias.al.name
}

data "aws_lambda_function" "m" { function_name = aws_lambda_function.minimal.function_name }

data "aws_lambda_functions" "all" { depends_on = [aws_lambda_function.full] }

data "aws_lambda_alias" "al" {
  function_name = aws_lambda_function.full.function_name
  name          = aws_lambda_alias.al.name
}

data "aws_lambda_layer_version" "l" {
  layer_name = aws_lambda_layer_version.l.layer_name
}

data "aws_lambda_layer_version" "l2" {
  layer_name = aws_lambda_layer_version.l.layer_name
}

output "shown" {
  value = {
    account   = data.aws_caller_identity.me.account_id
    alias     = data.aws_lambda_alias.al.function_version
    functions = data.aws_lambda_functions.all.function_names
    layer     = data.aws_lambda_layer_version.l.version
    memory    = data.aws_lambda_function.f.memory_size
    minimal   = data.aws_lambda_function.m.version
  }
}
