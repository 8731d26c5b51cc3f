'use strict';
// Failures in the shape and words of AWS's Node.js runtime.

const { isNativeError } = require('node:util').types;

/** Whether this is a Node.js for which AWS has a runtime written anew. */
const modern = Number(process.versions.node.split('.')[0]) >= 24;

function named(name) {
  const cls = class extends Error {
    constructor(message, more) {
      super(message);
      // The log shows an error's own members.
      if (modern) this.name = `Runtime.${name}`;
      Object.assign(this, more);
    }
  };
  cls.prototype.name = `Runtime.${name}`;
  Object.defineProperty(cls, 'name', { value: name });
  return cls;
}

const names = [
  'ImportModuleError', 'HandlerNotFound', 'MalformedHandlerName', 'UserCodeSyntaxError', 'MalformedStreamingHandler',
  'InvalidStreamingOperation', 'NodeJsExit', 'UnhandledPromiseRejection', 'CallbackHandlerDeprecated', 'MarshalError', 'JSONStringifyError',
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

/** Also what merely looks like one. */
const isError = (value) =>
  isNativeError(value) || value instanceof Error || ['name', 'message', 'stack'].every((key) => typeof value?.[key] === 'string' && value[key]);

/** What the log shows of something that was thrown. */
const intoError = (value) => (value instanceof Error ? value : new Error(String(value)));

const UNREADABLE =
  'callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack';

/** The document that the caller gets. */
function document(error) {
  if (error && isError(error)) {
    return {
      errorType: String(error.name).replaceAll('\x7f', '%7F'),
      errorMessage: String(error.message).replaceAll('\x7f', '%7F'),
      trace: trace(error),
    };
  }
  try {
    return { errorType: typeof error, errorMessage: String(error), trace: [] };
  } catch {
    return { errorType: 'handled', errorMessage: UNREADABLE, trace: [] };
  }
}

/** The error as the log shows it: one JSON object. */
function shown(error) {
  try {
    return `\t${JSON.stringify(intoError(error), withMembers)}`;
  } catch {
    return `\t${JSON.stringify(document(error))}`;
  }
}

function withMembers(_key, value) {
  if (!(value instanceof Error)) return value;
  const members = { errorType: value.name, errorMessage: value.message, code: value.code, ...value };
  if (typeof value.stack === 'string') members.stack = trace(value);
  return members;
}

module.exports = { faults, wrapping, document, shown, isError, intoError, modern };
