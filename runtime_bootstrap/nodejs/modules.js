'use strict';
// NODE_PATH for ES modules: Node.js itself looks there for CommonJS only, AWS's Node.js for both.

const fs = require('node:fs');
const path = require('node:path');
const Module = require('node:module');
const { createRequire } = Module;
const { pathToFileURL } = require('node:url');

const RUNTIME = path.resolve(__dirname, '../..');
const OWN = '/var/runtime';
// Where the SDK is when the runtime is not at its own place: beside all versions of the runtime.
const SDK = path.resolve(RUNTIME, '../../nodejs-sdk/current/node_modules');
const BARE = /^(?![./#])(?![a-z]+:)/;
const THE_SDKS = /^(?:@aws-sdk\/|@smithy\/|aws-sdk(?:\/|$))/;
const HINT =
  '[engine] %s is not installed for Node.js functions. On the host, "lambda-engine runtimes install nodejs-sdk" brings the usual packages of the ' +
  'AWS SDK v3 and those that are named after it; others belong into the package or a layer.';

/** Without a file system of its own a function sees the runtime where the host has it. */
function place(searched) {
  if (RUNTIME === OWN) return searched;
  const moved = (dir) => (dir === `${OWN}/node_modules` ? SDK : dir === OWN ? RUNTIME : dir);
  return searched.split(':').map(moved).join(':');
}

/** URLs to ask from, or of the very file, for a name that was not found by itself. */
function* places(name, dirs) {
  for (const dir of dirs) {
    if (path.basename(dir) === 'node_modules') {
      yield { parent: pathToFileURL(path.join(path.dirname(dir), '_.mjs')).href };
      continue;
    }
    try {
      yield { file: pathToFileURL(createRequire(path.join(dir, '_.js')).resolve(`./${name}`)).href };
    } catch {
      // Not there.
    }
  }
}

const missing = (error) => error && error.code === 'ERR_MODULE_NOT_FOUND';

function resolveNow(dirs, name, given, next) {
  try {
    return next(name, given);
  } catch (error) {
    if (!missing(error) || !BARE.test(name)) throw error;
    for (const place of places(name, dirs)) {
      try {
        return place.file ? next(place.file, given) : next(name, { ...given, parentURL: place.parent });
      } catch (again) {
        if (!missing(again)) throw again;
      }
    }
    throw error;
  }
}

async function resolveLater(dirs, name, given, next) {
  try {
    return await next(name, given);
  } catch (error) {
    if (!missing(error) || !BARE.test(name)) throw error;
    for (const place of places(name, dirs)) {
      try {
        return await (place.file ? next(place.file, given) : next(name, { ...given, parentURL: place.parent }));
      } catch (again) {
        if (!missing(again)) throw again;
      }
    }
    throw error;
  }
}

let done = false;

/** Before modules of a function are imported. `file`: its handler's. */
function search(file) {
  if (done) return;
  const dirs = (process.env.NODE_PATH || '').split(':').filter((dir) => path.isAbsolute(dir) && fs.existsSync(dir));
  if (!dirs.some((dir) => path.basename(dir) === 'node_modules')) return;
  if (Module.registerHooks) {
    done = true;
    Module.registerHooks({ resolve: (name, given, next) => resolveNow(dirs, name, given, next) });
  } else if (imports(file)) {
    // Here hooks are run by a thread of their own, which takes a while to start.
    done = true;
    Module.register(pathToFileURL(path.join(__dirname, 'hooks.mjs')).href, { data: { dirs } });
  }
}

/** Whether a handler's file is an ES module, or CommonJS that may import some. */
function imports(file) {
  if (!file.endsWith('.cjs') && !file.endsWith('.js')) return true;
  try {
    return /\b(?:import|export)\b/.test(fs.readFileSync(file, 'utf8'));
  } catch {
    return true;
  }
}

/** What to tell of a module that was not found: a hint for the log, or nothing. */
function hint(error) {
  const name = /Cannot find (?:module|package) '([^']+)'/.exec(String(error && error.message));
  return name && THE_SDKS.test(name[1]) ? HINT.replace('%s', name[1]) : null;
}

module.exports = { place, search, hint, resolveLater };
