const cdk = require('aws-cdk-lib');
const lambda = require('aws-cdk-lib/aws-lambda');
const sqs = require('aws-cdk-lib/aws-sqs');
const events = require('aws-cdk-lib/aws-events');
const targets = require('aws-cdk-lib/aws-events-targets');
const sources = require('aws-cdk-lib/aws-lambda-event-sources');
const cr = require('aws-cdk-lib/custom-resources');
const dynamodb = require('aws-cdk-lib/aws-dynamodb');
const logs = require('aws-cdk-lib/aws-logs');

class Demo extends cdk.Stack {
  constructor(scope, id, props) {
    super(scope, id, props);
    const code = lambda.Code.fromAsset('fn');
    const table = new dynamodb.Table(this, 'Table', {
      partitionKey: { name: 'id', type: dynamodb.AttributeType.STRING },
      removalPolicy: cdk.RemovalPolicy.DESTROY,
    });
    const common = { runtime: lambda.Runtime.PYTHON_3_11, code, environment: { TABLE: table.tableName, GREETING: process.env.GREETING || 'Hello' }, timeout: cdk.Duration.seconds(10) };
    const hello = new lambda.Function(this, 'Hello', { ...common, handler: 'app.hello', logGroup: new logs.LogGroup(this, 'HelloLogs', { removalPolicy: cdk.RemovalPolicy.DESTROY, retention: logs.RetentionDays.ONE_WEEK }) });
    const live = new lambda.Alias(this, 'Live', { aliasName: 'live', version: hello.currentVersion });
    const url = live.addFunctionUrl({ authType: lambda.FunctionUrlAuthType.NONE });
    const worker = new lambda.Function(this, 'Worker', { ...common, handler: 'app.work' });
    table.grantReadWriteData(worker);
    const queue = new sqs.Queue(this, 'Queue');
    worker.addEventSource(new sources.SqsEventSource(queue, { batchSize: 1 }));
    new events.Rule(this, 'Rule', { eventPattern: { source: ['demo'] }, targets: [new targets.LambdaFunction(worker)] });
    const provider = new cr.Provider(this, 'Provider', {
      onEventHandler: new lambda.Function(this, 'OnEvent', { ...common, handler: 'app.on_event' }),
    });
    const seed = new cdk.CustomResource(this, 'Seed', { serviceToken: provider.serviceToken, resourceType: 'Custom::Seed', properties: { Count: 3, Greeting: process.env.GREETING || 'Hello' } });
    new cdk.CfnOutput(this, 'Url', { value: url.url });
    new cdk.CfnOutput(this, 'QueueUrl', { value: queue.queueUrl });
    new cdk.CfnOutput(this, 'TableName', { value: table.tableName });
    new cdk.CfnOutput(this, 'SeedWord', { value: seed.getAttString('Word') });
    new cdk.CfnOutput(this, 'HelloName', { value: hello.functionName });
  }
}
const app = new cdk.App();
new Demo(app, 'Demo', { env: { account: '000000000000', region: 'us-east-1' } });
