'use strict';
// console.*, as AWS's Node.js runtime patches it: text or JSON, each call one log event.

const util = require('node:util');
const errors = require('./errors.js');

const LEVELS = { TRACE: 1, DEBUG: 2, INFO: 3, WARN: 4, ERROR: 5, FATAL: 6 };
// In place of the id while there is no invocation.
const NONE = errors.modern ? '-' : undefined;
const METHODS = { trace: 'TRACE', debug: 'DEBUG', log: 'INFO', info: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };

function shownError(error) {
  return {
    errorType: error?.constructor?.name ?? 'UnknownError',
    errorMessage: error.message,
    stackTrace: typeof error.stack === 'string' ? error.stack.split('\n') : [],
  };
}

const replaceErrors = (_key, value) => (value instanceof Error ? { ...shownError(value), ...value } : value);

function asText(state, level, args) {
  return `${new Date().toISOString()}\t${state.requestId ?? NONE}\t${level}\t${util.format(args[0], ...args.slice(1))}`;
}

function asJson(state, level, args) {
  const record = { timestamp: new Date().toISOString(), level, requestId: state.requestId ?? NONE };
  if (state.tenantId) record.tenantId = state.tenantId;
  if (args.length < 2) {
    record.message = args[0];
    try {
      return JSON.stringify(record, replaceErrors);
    } catch {
      record.message = util.format(record.message);
      return JSON.stringify(record);
    }
  }
  record.message = util.format(...args);
  const error = args.find((arg) => arg instanceof Error);
  if (error) Object.assign(record, shownError(error));
  return JSON.stringify(record, replaceErrors);
}

/** Patch console. `state` has requestId and tenantId, which change with every invocation. */
function install(channel, state, json, level) {
  const least = json ? LEVELS[String(level).toUpperCase()] ?? LEVELS.TRACE : 0;
  const format = json ? asJson : asText;
  for (const [method, name] of Object.entries(METHODS)) {
    const number = LEVELS[name];
    console[method] = number < least ? () => {} : (...args) => channel.log(number, format(state, name, args));
  }
  failed = json ? (_what, error) => console.error(errors.intoError(error)) : (what, error) => console.error(what, errors.shown(error));
}

let failed;

/** Say what went wrong with the function: in JSON the error itself is the message. */
const failure = (what, error) => failed(what, error);

module.exports = { install, failure };
