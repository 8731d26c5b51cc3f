// What Terraform's AWS provider does with one function and what belongs to it, through the SDK that it is built on: the same
// calls in the same order, the same waits, and the same way of reading the answers. Every surprise is a line on standard error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/apigatewayv2"
	apitypes "github.com/aws/aws-sdk-go-v2/service/apigatewayv2/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamotypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventtypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
)

const trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}]}`

var (
	ctx      = context.Background()
	failures int
)

func complain(format string, args ...any) {
	failures++
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// ok ends the run where going on makes no sense.
func ok(what string, err error) {
	if err != nil {
		complain("%s: %v", what, err)
		os.Exit(1)
	}
}

func same(what string, found, wanted any) {
	f, _ := json.Marshal(found)
	w, _ := json.Marshal(wanted)
	if string(f) != string(w) {
		complain("%s: %s, not %s", what, f, w)
	}
}

// refused: the provider tells absence from failure by the code alone.
func refused(what string, err error, code string) {
	var api smithy.APIError
	if err == nil {
		complain("%s: no error, not %s", what, code)
	} else if !errors.As(err, &api) || api.ErrorCode() != code {
		complain("%s: %v, not %s", what, err, code)
	}
}

func missing[T error](what string, err error) {
	var wanted T
	if !errors.As(err, &wanted) {
		complain("%s: %v is not a %T", what, err, wanted)
	}
}

// until is retry.StateChangeConf: states that are neither pending nor wanted end the wait.
func until(what string, pending, wanted []string, state func() (string, error)) {
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		found, err := state()
		ok(what, err)
		for _, w := range wanted {
			if found == w {
				return
			}
		}
		known := len(pending) == 0
		for _, p := range pending {
			known = known || found == p
		}
		if !known {
			complain("%s: unexpected state '%s'", what, found)
			os.Exit(1)
		}
	}
	complain("%s: timed out", what)
	os.Exit(1)
}

func main() {
	name, runtime, zipped, other := os.Args[1], os.Args[2], read(os.Args[3]), read(os.Args[4])
	cfg, err := config.LoadDefaultConfig(ctx)
	ok("configuration", err)
	role := createRole(iam.NewFromConfig(cfg), name)
	client := lambda.NewFromConfig(cfg)
	function(client, name, runtime, role, zipped, other)
	arn := pieces(client, name, runtime, zipped)
	queue(sqs.NewFromConfig(cfg), client, name)
	table(dynamodb.NewFromConfig(cfg), client, name)
	bucket(s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }), client, name, arn, zipped)
	rule(eventbridge.NewFromConfig(cfg), client, name, arn)
	httpAPI(apigatewayv2.NewFromConfig(cfg), client, name, arn)
	logGroup(cloudwatchlogs.NewFromConfig(cfg), name)
	destroy(client, name)
	deleteRole(iam.NewFromConfig(cfg), name)
	if failures > 0 {
		os.Exit(1)
	}
	fmt.Println("done")
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	ok(path, err)
	return data
}

func createRole(client *iam.Client, name string) string {
	made, err := client.CreateRole(ctx, &iam.CreateRoleInput{
		RoleName: &name, AssumeRolePolicyDocument: aws.String(trust), Path: aws.String("/"), MaxSessionDuration: aws.Int32(3600),
	})
	ok("CreateRole", err)
	_, err = client.AttachRolePolicy(ctx, &iam.AttachRolePolicyInput{
		RoleName: &name, PolicyArn: aws.String("arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"),
	})
	ok("AttachRolePolicy", err)
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","sqs:*","dynamodb:*"],"Resource":"*"}]}`
	_, err = client.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: &name, PolicyName: aws.String("inline"), PolicyDocument: &policy})
	ok("PutRolePolicy", err)
	got, err := client.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
	ok("GetRole", err)
	same("MaxSessionDuration", got.Role.MaxSessionDuration, 3600)
	attached, err := client.ListAttachedRolePolicies(ctx, &iam.ListAttachedRolePoliciesInput{RoleName: &name})
	ok("ListAttachedRolePolicies", err)
	same("attached policies", len(attached.AttachedPolicies), 1)
	inline, err := client.ListRolePolicies(ctx, &iam.ListRolePoliciesInput{RoleName: &name})
	ok("ListRolePolicies", err)
	same("inline policies", inline.PolicyNames, []string{"inline"})
	return *made.Role.Arn
}

func deleteRole(client *iam.Client, name string) {
	_, err := client.ListInstanceProfilesForRole(ctx, &iam.ListInstanceProfilesForRoleInput{RoleName: &name})
	ok("ListInstanceProfilesForRole", err)
	_, err = client.DetachRolePolicy(ctx, &iam.DetachRolePolicyInput{
		RoleName: &name, PolicyArn: aws.String("arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"),
	})
	ok("DetachRolePolicy", err)
	_, err = client.DeleteRolePolicy(ctx, &iam.DeleteRolePolicyInput{RoleName: &name, PolicyName: aws.String("inline")})
	ok("DeleteRolePolicy", err)
	_, err = client.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: &name})
	ok("DeleteRole", err)
	_, err = client.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
	refused("GetRole after delete", err, "NoSuchEntity")
}

// state is what aws_lambda_function keeps of its function: a plan is empty when it stays as it is.
func state(client *lambda.Client, name string) map[string]any {
	got, err := client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: &name})
	ok("GetFunction", err)
	c := got.Configuration
	var versions []types.FunctionConfiguration
	pages := lambda.NewListVersionsByFunctionPaginator(client, &lambda.ListVersionsByFunctionInput{FunctionName: &name, MaxItems: aws.Int32(10000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		ok("ListVersionsByFunction", err)
		versions = append(versions, page.Versions...)
	}
	signing, err := client.GetFunctionCodeSigningConfig(ctx, &lambda.GetFunctionCodeSigningConfigInput{FunctionName: &name})
	ok("GetFunctionCodeSigningConfig", err)
	reserved := int32(-1)
	if got.Concurrency != nil {
		reserved = *got.Concurrency.ReservedConcurrentExecutions
	}
	var variables map[string]string
	if c.Environment != nil {
		variables = c.Environment.Variables
	}
	layers := []string{}
	for _, layer := range c.Layers {
		layers = append(layers, *layer.Arn)
	}
	last := versions[len(versions)-1]
	return map[string]any{
		"architectures": c.Architectures, "arn": c.FunctionArn, "signing": aws.ToString(signing.CodeSigningConfigArn), "dead": c.DeadLetterConfig != nil,
		"description": c.Description, "environment": variables, "ephemeral": c.EphemeralStorage.Size, "fs": c.FileSystemConfigs, "handler": c.Handler,
		"image": c.ImageConfigResponse != nil, "uri": got.Code.ImageUri, "kms": c.KMSKeyArn, "layers": layers,
		"logging": c.LoggingConfig, "memory": c.MemorySize, "package": c.PackageType, "reserved": reserved, "role": c.Role, "runtime": c.Runtime,
		"snap": c.SnapStart.ApplyOn, "hash": c.CodeSha256, "size": c.CodeSize, "tags": got.Tags, "timeout": c.Timeout, "tracing": c.TracingConfig.Mode,
		"version": last.Version, "qualified": last.FunctionArn, "vpc": c.VpcConfig != nil && aws.ToString(c.VpcConfig.VpcId) != "",
	}
}

func settled(client *lambda.Client, name string) {
	until("update", []string{"InProgress"}, []string{"Successful"}, func() (string, error) {
		got, err := client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: &name})
		if err != nil {
			return "", err
		}
		return string(got.Configuration.LastUpdateStatus), nil
	})
}

func function(client *lambda.Client, name, runtime, role string, zipped, other []byte) {
	_, err := client.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName: &name, Role: &role, Runtime: types.Runtime(runtime), Handler: aws.String("app.handler"), Publish: true, MemorySize: aws.Int32(128),
		Timeout: aws.Int32(3), Description: aws.String(""), PackageType: types.PackageTypeZip, Code: &types.FunctionCode{ZipFile: zipped},
		Tags: map[string]string{"Name": "a b", "stage": "é"}, Architectures: []types.Architecture{types.ArchitectureX8664},
		Environment: &types.Environment{Variables: map[string]string{"STAGE": "one"}}, EphemeralStorage: &types.EphemeralStorage{Size: aws.Int32(512)},
		LoggingConfig: &types.LoggingConfig{LogFormat: types.LogFormatJson, ApplicationLogLevel: types.ApplicationLogLevelInfo, SystemLogLevel: types.SystemLogLevelWarn},
		TracingConfig: &types.TracingConfig{Mode: types.TracingModeActive},
	})
	ok("CreateFunction", err)
	until("creation", []string{"Pending"}, []string{"Active"}, func() (string, error) {
		got, err := client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: &name})
		if err != nil {
			return "", err
		}
		return string(got.Configuration.State), nil
	})
	_, err = client.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: &name, ReservedConcurrentExecutions: aws.Int32(0)})
	ok("PutFunctionConcurrency", err)
	before := state(client, name)
	same("reserved", before["reserved"], 0)
	same("tags", before["tags"], map[string]string{"Name": "a b", "stage": "é"})
	same("version", before["version"], "1")
	same("plan", state(client, name), before)

	same("tags by ARN", tags(client, aws.ToString(before["arn"].(*string))), before["tags"])
	_, err = client.UntagResource(ctx, &lambda.UntagResourceInput{Resource: before["arn"].(*string), TagKeys: []string{"stage"}})
	ok("UntagResource", err)
	_, err = client.TagResource(ctx, &lambda.TagResourceInput{Resource: before["arn"].(*string), Tags: map[string]string{"Name": "b"}})
	ok("TagResource", err)
	_, err = client.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
		FunctionName: &name, Description: aws.String("two"), MemorySize: aws.Int32(256), Environment: &types.Environment{Variables: map[string]string{}},
		DeadLetterConfig: &types.DeadLetterConfig{TargetArn: aws.String("")}, FileSystemConfigs: []types.FileSystemConfig{}, Layers: []string{},
		VpcConfig: &types.VpcConfig{SubnetIds: []string{}, SecurityGroupIds: []string{}}, KMSKeyArn: aws.String(""),
		TracingConfig: &types.TracingConfig{Mode: types.TracingModePassThrough}, SnapStart: &types.SnapStart{ApplyOn: types.SnapStartApplyOnNone},
		LoggingConfig: &types.LoggingConfig{LogFormat: types.LogFormatText, LogGroup: aws.String("/aws/lambda/" + name)},
	})
	ok("UpdateFunctionConfiguration", err)
	settled(client, name)
	_, err = client.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: &name, ZipFile: other, Architectures: []types.Architecture{types.ArchitectureX8664}})
	ok("UpdateFunctionCode", err)
	settled(client, name)
	_, err = client.DeleteFunctionConcurrency(ctx, &lambda.DeleteFunctionConcurrencyInput{FunctionName: &name})
	ok("DeleteFunctionConcurrency", err)
	published, err := client.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: &name})
	ok("PublishVersion", err)
	ok("FunctionUpdatedWaiter", lambda.NewFunctionUpdatedWaiter(client).Wait(
		ctx, &lambda.GetFunctionConfigurationInput{FunctionName: published.FunctionArn, Qualifier: published.Version}, time.Minute))
	after := state(client, name)
	for key, wanted := range map[string]any{
		"reserved": -1, "tags": map[string]string{"Name": "b"}, "memory": 256, "description": "two", "version": "2", "tracing": "PassThrough", "dead": false,
		"vpc": false, "layers": []string{}, "logging": map[string]any{"ApplicationLogLevel": "", "LogFormat": "Text", "LogGroup": "/aws/lambda/" + name, "SystemLogLevel": ""},
	} {
		same(key+" after update", after[key], wanted)
	}
}

func tags(client *lambda.Client, arn string) map[string]string {
	found, err := client.ListTags(ctx, &lambda.ListTagsInput{Resource: &arn})
	ok("ListTags of "+arn, err)
	return found.Tags
}

type statement struct {
	Condition                     map[string]map[string]string
	Action, Resource, Effect, Sid string
	Principal                     any
}

func find(client *lambda.Client, name, qualifier, sid string) *statement {
	input := &lambda.GetPolicyInput{FunctionName: &name}
	if qualifier != "" {
		input.Qualifier = &qualifier
	}
	got, err := client.GetPolicy(ctx, input)
	var gone *types.ResourceNotFoundException
	if errors.As(err, &gone) {
		return nil
	}
	ok("GetPolicy", err)
	var policy struct{ Statement []statement }
	ok("policy", json.Unmarshal([]byte(*got.Policy), &policy))
	for _, s := range policy.Statement {
		if s.Sid == sid {
			return &s
		}
	}
	return nil
}

func permit(client *lambda.Client, name, sid, principal, source string) {
	_, err := client.AddPermission(ctx, &lambda.AddPermissionInput{
		FunctionName: &name, StatementId: &sid, Action: aws.String("lambda:InvokeFunction"), Principal: &principal, SourceArn: &source,
	})
	ok("AddPermission", err)
	found := find(client, name, "", sid)
	if found == nil {
		complain("no statement %s", sid)
		return
	}
	same("principal", found.Principal, map[string]string{"Service": principal})
	same("source", found.Condition["ArnLike"]["AWS:SourceArn"], source)
}

func forbid(client *lambda.Client, name, sid string) {
	_, err := client.RemovePermission(ctx, &lambda.RemovePermissionInput{FunctionName: &name, StatementId: &sid})
	ok("RemovePermission", err)
	if find(client, name, "", sid) != nil {
		complain("statement %s is still there", sid)
	}
}

// pieces: alias, layer, URL, configurations of their own. The alias stays; its ARN is returned.
func pieces(client *lambda.Client, name, runtime string, zipped []byte) string {
	alias, err := client.CreateAlias(ctx, &lambda.CreateAliasInput{
		FunctionName: &name, Name: aws.String("live"), FunctionVersion: aws.String("1"), Description: aws.String(""),
		RoutingConfig: &types.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{"2": 0.1}},
	})
	ok("CreateAlias", err)
	same("weights", alias.RoutingConfig.AdditionalVersionWeights, map[string]float64{"2": 0.1})
	_, err = client.UpdateAlias(ctx, &lambda.UpdateAliasInput{
		FunctionName: &name, Name: aws.String("live"), FunctionVersion: aws.String("2"), Description: aws.String(""), RoutingConfig: &types.AliasRoutingConfiguration{},
	})
	ok("UpdateAlias", err)
	got, err := client.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: &name, Name: aws.String("live")})
	ok("GetAlias", err)
	same("routing", got.RoutingConfig == nil || len(got.RoutingConfig.AdditionalVersionWeights) == 0, true)

	layer, err := client.PublishLayerVersion(ctx, &lambda.PublishLayerVersionInput{
		LayerName: &name, Content: &types.LayerVersionContentInput{ZipFile: zipped}, Description: aws.String(""), LicenseInfo: aws.String(""),
		CompatibleRuntimes: []types.Runtime{types.Runtime(runtime)}, CompatibleArchitectures: []types.Architecture{types.ArchitectureX8664},
	})
	ok("PublishLayerVersion", err)
	version, err := client.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: &name, VersionNumber: aws.Int64(layer.Version)})
	ok("GetLayerVersion", err)
	same("layer", version.LayerVersionArn, layer.LayerVersionArn)
	same("layer size", version.Content.CodeSize, len(zipped))
	if _, err := time.Parse("2006-01-02T15:04:05.999-0700", *version.CreatedDate); err != nil {
		complain("CreatedDate: %v", err)
	}
	_, err = client.AddLayerVersionPermission(ctx, &lambda.AddLayerVersionPermissionInput{
		LayerName: &name, VersionNumber: aws.Int64(layer.Version), StatementId: aws.String("all"), Action: aws.String("lambda:GetLayerVersion"), Principal: aws.String("*"),
	})
	ok("AddLayerVersionPermission", err)
	_, err = client.GetLayerVersionPolicy(ctx, &lambda.GetLayerVersionPolicyInput{LayerName: &name, VersionNumber: aws.Int64(layer.Version)})
	ok("GetLayerVersionPolicy", err)
	_, err = client.RemoveLayerVersionPermission(ctx, &lambda.RemoveLayerVersionPermissionInput{LayerName: &name, VersionNumber: aws.Int64(layer.Version), StatementId: aws.String("all")})
	ok("RemoveLayerVersionPermission", err)
	_, err = client.DeleteLayerVersion(ctx, &lambda.DeleteLayerVersionInput{LayerName: &name, VersionNumber: aws.Int64(layer.Version)})
	ok("DeleteLayerVersion", err)
	_, err = client.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: &name, VersionNumber: aws.Int64(layer.Version)})
	missing[*types.ResourceNotFoundException]("deleted layer", err)

	_, err = client.CreateFunctionUrlConfig(ctx, &lambda.CreateFunctionUrlConfigInput{
		FunctionName: &name, Qualifier: aws.String("live"), AuthType: types.FunctionUrlAuthTypeNone, InvokeMode: types.InvokeModeBuffered,
		Cors: &types.Cors{AllowCredentials: aws.Bool(true), AllowMethods: []string{"*"}, AllowOrigins: []string{"https://example.com"}, AllowHeaders: []string{"date"}, MaxAge: aws.Int32(86400)},
	})
	ok("CreateFunctionUrlConfig", err)
	_, err = client.AddPermission(ctx, &lambda.AddPermissionInput{
		FunctionName: &name, Qualifier: aws.String("live"), StatementId: aws.String("FunctionURLAllowPublicAccess"), Action: aws.String("lambda:InvokeFunctionUrl"),
		Principal: aws.String("*"), FunctionUrlAuthType: types.FunctionUrlAuthTypeNone,
	})
	ok("AddPermission of the URL", err)
	_, err = client.AddPermission(ctx, &lambda.AddPermissionInput{
		FunctionName: &name, Qualifier: aws.String("live"), StatementId: aws.String("FunctionURLInvokeAllowPublicAccess"), Action: aws.String("lambda:InvokeFunction"),
		Principal: aws.String("*"), InvokedViaFunctionUrl: aws.Bool(true),
	})
	ok("AddPermission of invocations through the URL", err)
	if s := find(client, name, "live", "FunctionURLInvokeAllowPublicAccess"); s == nil {
		complain("no statement for invocations through the URL")
	} else {
		same("through the URL", strings.EqualFold(s.Condition["Bool"]["lambda:InvokedViaFunctionUrl"], "true"), true)
		same("principal of the URL", s.Principal, "*")
	}
	address, err := client.GetFunctionUrlConfig(ctx, &lambda.GetFunctionUrlConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	ok("GetFunctionUrlConfig", err)
	same("CORS", []any{address.Cors.AllowHeaders, address.Cors.ExposeHeaders, address.Cors.MaxAge}, []any{[]string{"date"}, nil, 86400})
	same("mode", address.InvokeMode, "BUFFERED")
	_, err = client.UpdateFunctionUrlConfig(ctx, &lambda.UpdateFunctionUrlConfigInput{
		FunctionName: &name, Qualifier: aws.String("live"), AuthType: types.FunctionUrlAuthTypeAwsIam, Cors: &types.Cors{}, InvokeMode: types.InvokeModeResponseStream,
	})
	ok("UpdateFunctionUrlConfig", err)
	address, err = client.GetFunctionUrlConfig(ctx, &lambda.GetFunctionUrlConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	ok("GetFunctionUrlConfig", err)
	same("CORS taken away", address.Cors == nil || len(address.Cors.AllowMethods) == 0 && address.Cors.MaxAge == nil, true)
	_, err = client.DeleteFunctionUrlConfig(ctx, &lambda.DeleteFunctionUrlConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	ok("DeleteFunctionUrlConfig", err)
	_, err = client.GetFunctionUrlConfig(ctx, &lambda.GetFunctionUrlConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	missing[*types.ResourceNotFoundException]("deleted URL", err)

	_, err = client.PutFunctionEventInvokeConfig(ctx, &lambda.PutFunctionEventInvokeConfigInput{
		FunctionName: &name, Qualifier: aws.String("live"), MaximumRetryAttempts: aws.Int32(0), MaximumEventAgeInSeconds: aws.Int32(60),
	})
	ok("PutFunctionEventInvokeConfig", err)
	invoke, err := client.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	ok("GetFunctionEventInvokeConfig", err)
	same("retries", []any{invoke.MaximumRetryAttempts, invoke.MaximumEventAgeInSeconds}, []int{0, 60})
	_, err = client.DeleteFunctionEventInvokeConfig(ctx, &lambda.DeleteFunctionEventInvokeConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	ok("DeleteFunctionEventInvokeConfig", err)
	_, err = client.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	missing[*types.ResourceNotFoundException]("deleted event invoke configuration", err)

	_, err = client.PutProvisionedConcurrencyConfig(ctx, &lambda.PutProvisionedConcurrencyConfigInput{FunctionName: &name, Qualifier: aws.String("live"), ProvisionedConcurrentExecutions: aws.Int32(1)})
	ok("PutProvisionedConcurrencyConfig", err)
	until("provisioned concurrency", []string{"IN_PROGRESS"}, []string{"READY"}, func() (string, error) {
		got, err := client.GetProvisionedConcurrencyConfig(ctx, &lambda.GetProvisionedConcurrencyConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
		if err != nil {
			return "", err
		}
		same("provisioned", got.RequestedProvisionedConcurrentExecutions, 1)
		return string(got.Status), nil
	})
	_, err = client.DeleteProvisionedConcurrencyConfig(ctx, &lambda.DeleteProvisionedConcurrencyConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	ok("DeleteProvisionedConcurrencyConfig", err)
	_, err = client.GetProvisionedConcurrencyConfig(ctx, &lambda.GetProvisionedConcurrencyConfigInput{FunctionName: &name, Qualifier: aws.String("live")})
	missing[*types.ProvisionedConcurrencyConfigNotFoundException]("deleted provisioned concurrency", err)

	signing, err := client.CreateCodeSigningConfig(ctx, &lambda.CreateCodeSigningConfigInput{
		AllowedPublishers:   &types.AllowedPublishers{SigningProfileVersionArns: []string{"arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/abcdefghij"}},
		CodeSigningPolicies: &types.CodeSigningPolicies{UntrustedArtifactOnDeployment: types.CodeSigningPolicyWarn}, Description: aws.String("d"), Tags: map[string]string{"a": "b"},
	})
	ok("CreateCodeSigningConfig", err)
	same("tags of a code signing configuration", tags(client, *signing.CodeSigningConfig.CodeSigningConfigArn), map[string]string{"a": "b"})
	_, err = client.PutFunctionCodeSigningConfig(ctx, &lambda.PutFunctionCodeSigningConfigInput{FunctionName: &name, CodeSigningConfigArn: signing.CodeSigningConfig.CodeSigningConfigArn})
	ok("PutFunctionCodeSigningConfig", err)
	same("signing", state(client, name)["signing"], *signing.CodeSigningConfig.CodeSigningConfigArn)
	_, err = client.DeleteFunctionCodeSigningConfig(ctx, &lambda.DeleteFunctionCodeSigningConfigInput{FunctionName: &name})
	ok("DeleteFunctionCodeSigningConfig", err)
	_, err = client.DeleteCodeSigningConfig(ctx, &lambda.DeleteCodeSigningConfigInput{CodeSigningConfigArn: signing.CodeSigningConfig.CodeSigningConfigArn})
	ok("DeleteCodeSigningConfig", err)
	_, err = client.GetCodeSigningConfig(ctx, &lambda.GetCodeSigningConfigInput{CodeSigningConfigArn: signing.CodeSigningConfig.CodeSigningConfigArn})
	missing[*types.ResourceNotFoundException]("deleted code signing configuration", err)

	recursion, err := client.GetFunctionRecursionConfig(ctx, &lambda.GetFunctionRecursionConfigInput{FunctionName: &name})
	ok("GetFunctionRecursionConfig", err)
	same("recursion", recursion.RecursiveLoop, "Terminate")
	managed, err := client.GetRuntimeManagementConfig(ctx, &lambda.GetRuntimeManagementConfigInput{FunctionName: &name})
	ok("GetRuntimeManagementConfig", err)
	same("runtime updates", managed.UpdateRuntimeOn, "Auto")
	return *alias.AliasArn
}

func mapping(client *lambda.Client, input *lambda.CreateEventSourceMappingInput, change func(*lambda.UpdateEventSourceMappingInput), check func(*lambda.GetEventSourceMappingOutput)) {
	made, err := client.CreateEventSourceMapping(ctx, input)
	ok("CreateEventSourceMapping", err)
	look := func() (*lambda.GetEventSourceMappingOutput, string, error) {
		got, err := client.GetEventSourceMapping(ctx, &lambda.GetEventSourceMappingInput{UUID: made.UUID})
		var gone *types.ResourceNotFoundException
		if errors.As(err, &gone) {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		return got, *got.State, nil
	}
	stateOf := func() (string, error) { _, s, err := look(); return s, err }
	until("mapping created", []string{"Creating", "Disabling", "Enabling"}, []string{"Enabled", "Disabled"}, stateOf)
	got, _, _ := look()
	same("tags of the mapping", tags(client, *got.EventSourceMappingArn), input.Tags)
	same("batch size", got.BatchSize, input.BatchSize)
	same("response types", len(got.FunctionResponseTypes), len(input.FunctionResponseTypes))
	same("filters", got.FilterCriteria != nil, input.FilterCriteria != nil)
	wanted := &lambda.UpdateEventSourceMappingInput{UUID: made.UUID}
	change(wanted)
	_, err = client.UpdateEventSourceMapping(ctx, wanted)
	ok("UpdateEventSourceMapping", err)
	until("mapping updated", []string{"Disabling", "Enabling", "Updating"}, []string{"Enabled", "Disabled"}, stateOf)
	got, _, _ = look()
	check(got)
	_, err = client.DeleteEventSourceMapping(ctx, &lambda.DeleteEventSourceMappingInput{UUID: made.UUID})
	ok("DeleteEventSourceMapping", err)
	until("mapping deleted", []string{"Deleting"}, []string{""}, stateOf)
}

func queue(client *sqs.Client, functions *lambda.Client, name string) {
	made, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "60", "SqsManagedSseEnabled": "true"}, Tags: map[string]string{"a": "b"}})
	ok("CreateQueue", err)
	arn := ""
	until("queue", nil, []string{"60"}, func() (string, error) {
		got, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: made.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameAll}})
		if err != nil {
			return "", err
		}
		arn = got.Attributes["QueueArn"]
		return got.Attributes["VisibilityTimeout"], nil
	})
	labels, err := client.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: made.QueueUrl})
	ok("ListQueueTags", err)
	same("tags of the queue", labels.Tags, map[string]string{"a": "b"})
	pattern := `{"body":{"kind":["order"]}}`
	mapping(functions, &lambda.CreateEventSourceMappingInput{
		FunctionName: &name, EventSourceArn: &arn, Enabled: aws.Bool(true), BatchSize: aws.Int32(5), MaximumBatchingWindowInSeconds: aws.Int32(1), Tags: map[string]string{"c": "d"},
		FunctionResponseTypes: []types.FunctionResponseType{types.FunctionResponseTypeReportBatchItemFailures},
		FilterCriteria:        &types.FilterCriteria{Filters: []types.Filter{{Pattern: &pattern}}}, ScalingConfig: &types.ScalingConfig{MaximumConcurrency: aws.Int32(2)},
	}, func(u *lambda.UpdateEventSourceMappingInput) {
		u.BatchSize, u.Enabled, u.FilterCriteria, u.ScalingConfig = aws.Int32(7), aws.Bool(false), &types.FilterCriteria{}, &types.ScalingConfig{}
		u.FunctionResponseTypes = []types.FunctionResponseType{}
	}, func(got *lambda.GetEventSourceMappingOutput) {
		same("changed mapping", []any{got.BatchSize, got.State, got.FilterCriteria == nil, got.ScalingConfig == nil || got.ScalingConfig.MaximumConcurrency == nil, len(got.FunctionResponseTypes)}, []any{7, "Disabled", true, true, 0})
	})
	_, err = client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl})
	ok("DeleteQueue", err)
	_, err = client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: made.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameAll}})
	missing[*sqstypes.QueueDoesNotExist]("deleted queue", err)
}

func table(client *dynamodb.Client, functions *lambda.Client, name string) {
	_, err := client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &name, BillingMode: dynamotypes.BillingModePayPerRequest, Tags: []dynamotypes.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
		KeySchema:            []dynamotypes.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: dynamotypes.KeyTypeHash}},
		AttributeDefinitions: []dynamotypes.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: dynamotypes.ScalarAttributeTypeS}},
		StreamSpecification:  &dynamotypes.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: dynamotypes.StreamViewTypeNewAndOldImages},
	})
	ok("CreateTable", err)
	var got *dynamodb.DescribeTableOutput
	until("table", []string{"CREATING"}, []string{"ACTIVE"}, func() (string, error) {
		got, err = client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
		if err != nil {
			return "", err
		}
		return string(got.Table.TableStatus), nil
	})
	_, err = client.DescribeContinuousBackups(ctx, &dynamodb.DescribeContinuousBackupsInput{TableName: &name})
	ok("DescribeContinuousBackups", err)
	_, err = client.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: &name})
	ok("DescribeTimeToLive", err)
	_, err = client.ListTagsOfResource(ctx, &dynamodb.ListTagsOfResourceInput{ResourceArn: got.Table.TableArn})
	ok("ListTagsOfResource", err)
	mapping(functions, &lambda.CreateEventSourceMappingInput{
		FunctionName: &name, EventSourceArn: got.Table.LatestStreamArn, Enabled: aws.Bool(true), BatchSize: aws.Int32(100), StartingPosition: types.EventSourcePositionLatest,
		MaximumRetryAttempts: aws.Int32(2), MaximumRecordAgeInSeconds: aws.Int32(-1), BisectBatchOnFunctionError: aws.Bool(true), ParallelizationFactor: aws.Int32(2),
		Tags: map[string]string{"c": "d"},
	}, func(u *lambda.UpdateEventSourceMappingInput) {
		u.MaximumRetryAttempts, u.TumblingWindowInSeconds, u.ParallelizationFactor = aws.Int32(-1), aws.Int32(30), aws.Int32(1)
	}, func(got *lambda.GetEventSourceMappingOutput) {
		same("changed stream mapping", []any{got.MaximumRetryAttempts, got.TumblingWindowInSeconds, got.ParallelizationFactor, got.MaximumRecordAgeInSeconds, got.StartingPosition}, []any{-1, 30, 1, -1, "LATEST"})
	})
	_, err = client.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &name})
	ok("DeleteTable", err)
	_, err = client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
	missing[*dynamotypes.ResourceNotFoundException]("deleted table", err)
}

func bucket(client *s3.Client, functions *lambda.Client, name, target string, zipped []byte) {
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
	ok("CreateBucket", err)
	_, err = client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
	ok("HeadBucket", err)
	_, err = client.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: &name})
	refused("GetBucketPolicy", err, "NoSuchBucketPolicy")
	_, err = client.GetBucketAcl(ctx, &s3.GetBucketAclInput{Bucket: &name})
	ok("GetBucketAcl", err)
	_, err = client.GetBucketCors(ctx, &s3.GetBucketCorsInput{Bucket: &name})
	refused("GetBucketCors", err, "NoSuchCORSConfiguration")
	_, err = client.GetBucketWebsite(ctx, &s3.GetBucketWebsiteInput{Bucket: &name})
	refused("GetBucketWebsite", err, "NoSuchWebsiteConfiguration")
	_, err = client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &name})
	ok("GetBucketVersioning", err)
	_, err = client.GetBucketAccelerateConfiguration(ctx, &s3.GetBucketAccelerateConfigurationInput{Bucket: &name})
	ok("GetBucketAccelerateConfiguration", err)
	_, err = client.GetBucketRequestPayment(ctx, &s3.GetBucketRequestPaymentInput{Bucket: &name})
	ok("GetBucketRequestPayment", err)
	_, err = client.GetBucketLogging(ctx, &s3.GetBucketLoggingInput{Bucket: &name})
	ok("GetBucketLogging", err)
	_, err = client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &name})
	refused("GetBucketLifecycleConfiguration", err, "NoSuchLifecycleConfiguration")
	_, err = client.GetBucketReplication(ctx, &s3.GetBucketReplicationInput{Bucket: &name})
	refused("GetBucketReplication", err, "ReplicationConfigurationNotFoundError")
	_, err = client.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &name})
	if err != nil {
		refused("GetBucketEncryption", err, "ServerSideEncryptionConfigurationNotFoundError")
	}
	_, err = client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &name})
	refused("GetObjectLockConfiguration", err, "ObjectLockConfigurationNotFoundError")
	_, err = client.GetBucketTagging(ctx, &s3.GetBucketTaggingInput{Bucket: &name})
	refused("GetBucketTagging", err, "NoSuchTagSet")
	_, err = client.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: &name})
	ok("GetBucketLocation", err)

	// aws_s3_object, and a function's code out of it.
	_, err = client.PutObject(ctx, &s3.PutObjectInput{Bucket: &name, Key: aws.String("code.zip"), Body: strings.NewReader(string(zipped)), ContentType: aws.String("application/octet-stream")})
	ok("PutObject", err)
	head, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &name, Key: aws.String("code.zip"), ChecksumMode: s3types.ChecksumModeEnabled})
	ok("HeadObject", err)
	same("object size", head.ContentLength, len(zipped))
	_, err = client.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &name, Key: aws.String("code.zip")})
	ok("GetObjectTagging", err)
	_, err = functions.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: &name, S3Bucket: &name, S3Key: aws.String("code.zip")})
	ok("UpdateFunctionCode out of S3", err)
	settled(functions, name)

	permit(functions, name, "bucket", "s3.amazonaws.com", "arn:aws:s3:::"+name)
	function := strings.TrimSuffix(target, ":live")
	_, err = client.PutBucketNotificationConfiguration(ctx, &s3.PutBucketNotificationConfigurationInput{Bucket: &name, NotificationConfiguration: &s3types.NotificationConfiguration{
		LambdaFunctionConfigurations: []s3types.LambdaFunctionConfiguration{{
			Id: aws.String("tf-s3-lambda-1"), LambdaFunctionArn: &function, Events: []s3types.Event{"s3:ObjectCreated:*"},
			Filter: &s3types.NotificationConfigurationFilter{Key: &s3types.S3KeyFilter{FilterRules: []s3types.FilterRule{
				{Name: s3types.FilterRuleNamePrefix, Value: aws.String("in/")}, {Name: s3types.FilterRuleNameSuffix, Value: aws.String(".csv")}}}},
		}},
	}})
	ok("PutBucketNotificationConfiguration", err)
	got, err := client.GetBucketNotificationConfiguration(ctx, &s3.GetBucketNotificationConfigurationInput{Bucket: &name})
	ok("GetBucketNotificationConfiguration", err)
	if len(got.LambdaFunctionConfigurations) != 1 {
		complain("%d notifications", len(got.LambdaFunctionConfigurations))
	} else {
		n := got.LambdaFunctionConfigurations[0]
		same("notification", []any{n.Id, n.LambdaFunctionArn, n.Events, len(n.Filter.Key.FilterRules)}, []any{"tf-s3-lambda-1", function, []string{"s3:ObjectCreated:*"}, 2})
		for _, r := range n.Filter.Key.FilterRules {
			same("filter rule", strings.ToLower(string(r.Name)) == "prefix" || strings.ToLower(string(r.Name)) == "suffix", true)
		}
	}
	_, err = client.PutBucketNotificationConfiguration(ctx, &s3.PutBucketNotificationConfigurationInput{Bucket: &name, NotificationConfiguration: &s3types.NotificationConfiguration{}})
	ok("PutBucketNotificationConfiguration of none", err)
	forbid(functions, name, "bucket")
	_, err = client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &name, Key: aws.String("code.zip")})
	ok("DeleteObject", err)
	_, err = client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name})
	ok("DeleteBucket", err)
	_, err = client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
	missing[*s3types.NotFound]("deleted bucket", err)
}

func rule(client *eventbridge.Client, functions *lambda.Client, name, target string) {
	made, err := client.PutRule(ctx, &eventbridge.PutRuleInput{Name: &name, ScheduleExpression: aws.String("rate(1 day)"), State: eventtypes.RuleStateEnabled, Tags: []eventtypes.Tag{{Key: aws.String("a"), Value: aws.String("b")}}})
	ok("PutRule", err)
	got, err := client.DescribeRule(ctx, &eventbridge.DescribeRuleInput{Name: &name})
	ok("DescribeRule", err)
	same("rule", []any{got.ScheduleExpression, got.State, got.EventPattern}, []any{"rate(1 day)", "ENABLED", nil})
	labels, err := client.ListTagsForResource(ctx, &eventbridge.ListTagsForResourceInput{ResourceARN: made.RuleArn})
	ok("ListTagsForResource", err)
	same("tags of the rule", len(labels.Tags), 1)
	put, err := client.PutTargets(ctx, &eventbridge.PutTargetsInput{Rule: &name, Targets: []eventtypes.Target{{Id: aws.String("f"), Arn: &target}}})
	ok("PutTargets", err)
	same("failed targets", put.FailedEntryCount, 0)
	targets, err := client.ListTargetsByRule(ctx, &eventbridge.ListTargetsByRuleInput{Rule: &name})
	ok("ListTargetsByRule", err)
	same("target", []any{targets.Targets[0].Arn, targets.Targets[0].Input, targets.Targets[0].RetryPolicy}, []any{target, nil, nil})
	permit(functions, name, "rule", "events.amazonaws.com", *made.RuleArn)
	forbid(functions, name, "rule")
	_, err = client.RemoveTargets(ctx, &eventbridge.RemoveTargetsInput{Rule: &name, Ids: []string{"f"}})
	ok("RemoveTargets", err)
	_, err = client.DeleteRule(ctx, &eventbridge.DeleteRuleInput{Name: &name})
	ok("DeleteRule", err)
	_, err = client.DescribeRule(ctx, &eventbridge.DescribeRuleInput{Name: &name})
	missing[*eventtypes.ResourceNotFoundException]("deleted rule", err)
}

func httpAPI(client *apigatewayv2.Client, functions *lambda.Client, name, target string) {
	api, err := client.CreateApi(ctx, &apigatewayv2.CreateApiInput{Name: &name, ProtocolType: apitypes.ProtocolTypeHttp, CorsConfiguration: &apitypes.Cors{AllowOrigins: []string{"*"}}, Tags: map[string]string{"a": "b"}})
	ok("CreateApi", err)
	got, err := client.GetApi(ctx, &apigatewayv2.GetApiInput{ApiId: api.ApiId})
	ok("GetApi", err)
	same("API", []any{got.Name, got.ProtocolType, got.RouteSelectionExpression, got.ApiKeySelectionExpression, got.Tags}, []any{name, "HTTP", "$request.method $request.path", "$request.header.x-api-key", map[string]string{"a": "b"}})
	integration, err := client.CreateIntegration(ctx, &apigatewayv2.CreateIntegrationInput{ApiId: api.ApiId, IntegrationType: apitypes.IntegrationTypeAwsProxy, IntegrationUri: &target, PayloadFormatVersion: aws.String("2.0"), IntegrationMethod: aws.String("POST"), ConnectionType: apitypes.ConnectionTypeInternet})
	ok("CreateIntegration", err)
	read, err := client.GetIntegration(ctx, &apigatewayv2.GetIntegrationInput{ApiId: api.ApiId, IntegrationId: integration.IntegrationId})
	ok("GetIntegration", err)
	same("integration", []any{read.IntegrationUri, read.PayloadFormatVersion, read.TimeoutInMillis, read.IntegrationMethod, read.ConnectionType}, []any{target, "2.0", 30000, "POST", "INTERNET"})
	route, err := client.CreateRoute(ctx, &apigatewayv2.CreateRouteInput{ApiId: api.ApiId, RouteKey: aws.String("GET /pets/{id}"), Target: aws.String("integrations/" + *integration.IntegrationId), AuthorizationType: apitypes.AuthorizationTypeNone})
	ok("CreateRoute", err)
	path, err := client.GetRoute(ctx, &apigatewayv2.GetRouteInput{ApiId: api.ApiId, RouteId: route.RouteId})
	ok("GetRoute", err)
	same("route", []any{path.RouteKey, path.AuthorizationType, path.ApiKeyRequired}, []any{"GET /pets/{id}", "NONE", false})
	_, err = client.CreateStage(ctx, &apigatewayv2.CreateStageInput{ApiId: api.ApiId, StageName: aws.String("$default"), AutoDeploy: aws.Bool(true)})
	ok("CreateStage", err)
	stage, err := client.GetStage(ctx, &apigatewayv2.GetStageInput{ApiId: api.ApiId, StageName: aws.String("$default")})
	ok("GetStage", err)
	same("stage", []any{stage.AutoDeploy, stage.StageName}, []any{true, "$default"})
	permit(functions, name, "api", "apigateway.amazonaws.com", "arn:aws:execute-api:us-east-1:000000000000:"+*api.ApiId+"/*/*")
	forbid(functions, name, "api")
	_, err = client.DeleteStage(ctx, &apigatewayv2.DeleteStageInput{ApiId: api.ApiId, StageName: aws.String("$default")})
	ok("DeleteStage", err)
	_, err = client.DeleteRoute(ctx, &apigatewayv2.DeleteRouteInput{ApiId: api.ApiId, RouteId: route.RouteId})
	ok("DeleteRoute", err)
	_, err = client.DeleteIntegration(ctx, &apigatewayv2.DeleteIntegrationInput{ApiId: api.ApiId, IntegrationId: integration.IntegrationId})
	ok("DeleteIntegration", err)
	_, err = client.DeleteApi(ctx, &apigatewayv2.DeleteApiInput{ApiId: api.ApiId})
	ok("DeleteApi", err)
	_, err = client.GetApi(ctx, &apigatewayv2.GetApiInput{ApiId: api.ApiId})
	missing[*apitypes.NotFoundException]("deleted API", err)
}

func logGroup(client *cloudwatchlogs.Client, name string) {
	group := "/aws/lambda/" + name
	_, err := client.CreateLogGroup(ctx, &cloudwatchlogs.CreateLogGroupInput{LogGroupName: &group, Tags: map[string]string{"a": "b"}})
	if err != nil {
		refused("CreateLogGroup", err, "ResourceAlreadyExistsException")
	}
	_, err = client.PutRetentionPolicy(ctx, &cloudwatchlogs.PutRetentionPolicyInput{LogGroupName: &group, RetentionInDays: aws.Int32(7)})
	ok("PutRetentionPolicy", err)
	found, err := client.DescribeLogGroups(ctx, &cloudwatchlogs.DescribeLogGroupsInput{LogGroupNamePrefix: &group})
	ok("DescribeLogGroups", err)
	if len(found.LogGroups) != 1 {
		complain("%d log groups", len(found.LogGroups))
		return
	}
	same("group", []any{found.LogGroups[0].LogGroupName, found.LogGroups[0].RetentionInDays, found.LogGroups[0].LogGroupClass}, []any{group, 7, "STANDARD"})
	_, err = client.ListTagsForResource(ctx, &cloudwatchlogs.ListTagsForResourceInput{ResourceArn: aws.String(strings.TrimSuffix(*found.LogGroups[0].Arn, ":*"))})
	ok("ListTagsForResource of the group", err)
	_, err = client.DeleteLogGroup(ctx, &cloudwatchlogs.DeleteLogGroupInput{LogGroupName: &group})
	ok("DeleteLogGroup", err)
	found, err = client.DescribeLogGroups(ctx, &cloudwatchlogs.DescribeLogGroupsInput{LogGroupNamePrefix: &group})
	ok("DescribeLogGroups", err)
	same("groups after delete", len(found.LogGroups), 0)
}

func destroy(client *lambda.Client, name string) {
	_, err := client.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: &name, Name: aws.String("live")})
	ok("DeleteAlias", err)
	_, err = client.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: &name, Name: aws.String("live")})
	missing[*types.ResourceNotFoundException]("deleted alias", err)
	_, err = client.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: &name})
	ok("DeleteFunction", err)
	_, err = client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: &name})
	missing[*types.ResourceNotFoundException]("deleted function", err)
}
