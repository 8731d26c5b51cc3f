'use strict';
// Failures in the shape and words of AWS's Node.js runtime.

function named(name) {
  const cls = class extends Error {
    constructor(message, more) {
      super(message);
      this.name = `Runtime.${name}`;
      Object.assign(this, more);
    }
  };
  return cls;
}

const names = [
  'ImportModuleError', 'HandlerNotFound', 'MalformedHandlerName', 'UserCodeSyntaxError', 'MalformedStreamingHandler',
  'InvalidStreamingOperation', 'NodeJsExit', 'UnhandledPromiseRejection', 'CallbackHandlerDeprecated', 'MarshalError',
];
const faults = Object.fromEntries(names.map((name) => [name, named(name)]));

/** A fault that stands for another error: its message is that error's text, its stack that error's. */
function wrapping(name, error) {
  const fault = new faults[name](String(error));
  if (error && error.stack) fault.stack = `${fault.name}: ${error.stack}`;
  return fault;
}

/** The lines of a stack down to the function's own, without the runtime's below them. */
function trace(error) {
  const lines = String(error.stack || '').replaceAll('\x7f', '%7F').split('\n');
  const end = lines.findIndex((line) => line.includes(__dirname));
  return end > 0 ? lines.slice(0, end) : lines;
}

const isError = (value) => value instanceof Error || Object.prototype.toString.call(value) === '[object Error]';

/** The document that the caller gets. */
function document(error) {
  if (error && isError(error)) {
    return {
      errorType: String(error.name).replaceAll('\x7f', '%7F'),
      errorMessage: String(error.message).replaceAll('\x7f', '%7F'),
      trace: trace(error),
    };
  }
  return { errorType: typeof error, errorMessage: String(error), trace: [] };
}

/** The error as the log shows it: one JSON object. */
function shown(error) {
  try {
    return `\t${JSON.stringify(withMembers(error))}`;
  } catch {
    return `\t${JSON.stringify(document(error))}`;
  }
}

function withMembers(error) {
  if (!isError(error)) return error;
  const { name, message, code, stack, ...rest } = error;
  const members = { errorType: error.name, errorMessage: error.message, code: error.code, ...rest, stack: trace(error) };
  for (const [key, value] of Object.entries(members)) if (key !== 'stack' && isError(value)) members[key] = withMembers(value);
  return members;
}

module.exports = { faults, wrapping, document, shown, isError };
