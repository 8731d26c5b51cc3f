'use strict';
// The managed Node.js runtime's loop. HELLO is said before there is a function; INIT brings one.

const Module = require('node:module');
const { Channel, waitReady, INIT, INVOKE, SHUTDOWN } = require('./channel.js');
const custom = require('./custom.js');
const errors = require('./errors.js');
const handlers = require('./handler.js');
const logs = require('./logs.js');
const modules = require('./modules.js');
const streams = require('./streams.js');

const GO = 4;
const UNCAUGHT = 129, UNHANDLED = 128;
const REMOVED =
  'ERROR: AWS Lambda has removed support for callback-based function handlers starting with Node.js 24. You need to modify this function to use ' +
  'a supported handler signature to use Node.js 24 or later. For more information see https://docs.aws.amazon.com/lambda/latest/dg/nodejs-handler.html.';
const NEVER_SETTLED =
  'The Lambda runtime client detected an unexpected Node.js exit code. This is most commonly caused by a Promise that was never settled. ' +
  'For more information, see https://nodejs.org/docs/latest/api/process.html#process_exit_codes';

const modern = errors.modern;
const late = process.argv.includes('late');
const channel = new Channel(3, onMessage);
const state = { requestId: undefined, tenantId: undefined };
let init = null;
let handler = null;
let running = null;
let idle = null;

globalThis.awslambda = streams.awslambda;
channel.hello();

function onMessage(parts) {
  if (parts[0] === INIT) initialise(parts[1]);
  else if (parts[0] === INVOKE) invoke(parts);
  else if (parts[0] === SHUTDOWN) process.reallyExit(0);
}

async function initialise(about) {
  init = about;
  const root = init.task_root;
  if (!late) {
    process.chdir(waitReady(GO));
    for (const name of Object.keys(process.env)) if (!(name in init.env)) delete process.env[name];
    Object.assign(process.env, init.env);
  }
  if (process.env.NODE_PATH) process.env.NODE_PATH = modules.place(process.env.NODE_PATH);
  // It is read once, at the start.
  Module._initPaths();
  process.argv.splice(1);
  const json = (process.env.AWS_LAMBDA_LOG_FORMAT || init.log_format || '').toUpperCase() === 'JSON';
  logs.install(channel, state, json, process.env.AWS_LAMBDA_LOG_LEVEL || init.log_level || '');
  process.on('uncaughtException', (error) => crash('Uncaught Exception', error, UNCAUGHT));
  process.on('unhandledRejection', (reason, promise) => {
    const fault = new errors.faults.UnhandledPromiseRejection(String(reason), { reason, promise });
    if (reason && reason.stack) fault.stack = `${fault.name}: ${reason.stack}`;
    crash('Unhandled Promise Rejection', fault, UNHANDLED);
  });
  process.on('beforeExit', () => idle && idle());
  try {
    const found = await handlers.load(root, (late && process.env._HANDLER) || init.handler);
    if (modern && found.length >= 3 && !streams.isStreaming(found)) {
      throw new errors.faults.CallbackHandlerDeprecated(REMOVED);
    }
    // In a turn of its own, as AWS's client asks for its first event: a rejection that the module left unhandled is still init's.
    setImmediate(() => {
      handler = found;
      channel.next();
    });
  } catch (error) {
    crash(modern ? 'Init Error' : 'Uncaught Exception', error, UNCAUGHT);
  }
}

/** The process cannot go on. Whoever waits is told why. */
function crash(what, error, status) {
  logs.failure(what, error);
  const hint = handler ? null : modules.hint(error);
  if (hint) console.error(hint);
  const document = errors.document(error);
  const bytes = Buffer.from(JSON.stringify(document));
  if (!handler) channel.initError(document.errorType, bytes);
  else if (running) {
    const { requestId, stream } = running;
    running = null;
    if (stream && stream.started) channel.streamEnd(requestId, document.errorType, bytes);
    else channel.error(requestId, document.errorType, bytes, false);
  }
  channel.exit(status);
}

class Context {
  constructor(parts) {
    const [, requestId, deadline, arn, trace, client, identity, tenant] = parts;
    if (modern) this.xRayTraceId = trace ?? undefined;
    else this.callbackWaitsForEmptyEventLoop = true;
    this.functionVersion = init.function_version;
    this.functionName = init.function_name;
    this.memoryLimitInMB = String(init.memory_mb);
    this.logGroupName = init.log_group;
    this.logStreamName = init.log_stream;
    this.clientContext = client ? JSON.parse(client) : undefined;
    this.identity = identity ? JSON.parse(identity) : undefined;
    this.invokedFunctionArn = arn;
    this.awsRequestId = requestId;
    this.tenantId = tenant ?? undefined;
    Object.defineProperty(this, 'getRemainingTimeInMillis', { value: () => deadline - Date.now(), enumerable: true });
  }
}

function invoke(parts) {
  const requestId = parts[1];
  state.requestId = channel.requestId = requestId;
  state.tenantId = parts[7] ?? undefined;
  if (parts[4]) process.env._X_AMZN_TRACE_ID = parts[4];
  else delete process.env._X_AMZN_TRACE_ID;
  const mine = (running = { requestId, stream: null });
  const done = (answer) => {
    if (running !== mine) return;
    running = null;
    idle = null;
    channel.ref();
    answer();
    channel.requestId = null;
  };
  const fail = (error) => done(() => {
    logs.failure('Invoke Error', error);
    const document = errors.document(error);
    const bytes = Buffer.from(JSON.stringify(document));
    if (mine.stream && mine.stream.started) channel.streamEnd(requestId, document.errorType, bytes);
    else channel.error(requestId, document.errorType, bytes, true);
  });
  const succeed = (value) => {
    let payload;
    try {
      payload = JSON.stringify(value === undefined ? null : value);
    } catch {
      fail(new (modern ? errors.faults.JSONStringifyError : Error)('Unable to stringify response body'));
      return;
    }
    // A function or a symbol, in the words of what the published client hands it to.
    if (payload === undefined) {
      fail(new TypeError('Wrong arguments'));
      return;
    }
    payload = Buffer.from(payload);
    done(() => channel.respond(requestId, payload));
  };
  // From here on only the function's own work keeps the process's loop turning: when there is none left, `idle` is called.
  channel.unref();
  try {
    const context = new Context(parts);
    const event = JSON.parse(parts[8].toString('utf8'));
    if (event?.ResponseURL) custom.answerPlainly(event.ResponseURL);
    if (streams.isStreaming(handler)) runStreaming(mine, event, context, done, fail);
    else if (modern) runAwaited(event, context, succeed, fail);
    else runBuffered(event, context, succeed, fail);
  } catch (error) {
    fail(error);
  }
}

const isPromise = (value) => value && typeof value.then === 'function';
const neverSettled = (fail) => () => fail(new errors.faults.NodeJsExit(NEVER_SETTLED));

/** Since Node.js 24: what the handler returns is the answer, awaited or not. */
function runAwaited(event, context, succeed, fail) {
  idle = neverSettled(fail);
  Promise.resolve(handler(event, context)).then(succeed, fail);
}

function runBuffered(event, context, succeed, fail) {
  let called = false;
  const whenIdle = (answer) => {
    if (context.callbackWaitsForEmptyEventLoop) idle = answer;
    else setImmediate(answer);
  };
  const callback = (error, value) => {
    if (called) return;
    called = true;
    if (error !== undefined && error !== null) fail(error);
    else whenIdle(() => succeed(value));
  };
  const now = (error, value) => {
    context.callbackWaitsForEmptyEventLoop = false;
    callback(error, value);
  };
  Object.assign(context, { done: now, succeed: (value) => now(null, value), fail: (error) => now(error ?? 'handled', null) });
  // Without a callback and without a promise a function has answered null once nothing is left to do.
  idle = () => succeed(null);
  const result = handler(event, context, callback);
  if (isPromise(result)) {
    idle = neverSettled(fail);
    called = true;
    result.then(succeed, (error) => fail(error ?? 'handled'));
  }
}

function runStreaming(mine, event, context, done, fail) {
  const stream = (mine.stream = new streams.ResponseStream(channel, mine.requestId));
  stream.on('error', fail);
  const result = handler(event, stream, context);
  if (!isPromise(result)) throw new errors.faults.MalformedStreamingHandler('Streaming does not support non-async handlers.');
  idle = neverSettled(fail);
  result.then((value) => {
    if (value !== undefined) console.warn('Streaming handlers ignore return values.');
    if (!stream.writableEnded) {
      fail(new errors.faults.InvalidStreamingOperation('Response stream is not finished.'));
      return;
    }
    const end = () => done(() => channel.streamEnd(mine.requestId, null, null));
    if (stream.writableFinished) end();
    else stream.once('finish', end);
  }, fail);
}
