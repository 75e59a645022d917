// Leads a Node.js that cannot be told to use a proxy through the sidecar: http.globalAgent,
// https.globalAgent and fetch(), which is what NODE_USE_ENV_PROXY changes in a Node.js that knows it
// (22.21, 24.5 and later; there this file does nothing). NODE_OPTIONS names it.
//
// Written for any version since 10, so nothing newer than ES2018; what goes wrong here leaves Node.js
// as it was.
'use strict';

(() => {
  const version = process.versions.node.split('.').map(Number);
  const since = (major, minor) => version[0] === major && version[1] >= minor;
  if (version[0] > 24 || since(24, 5) || since(22, 21)) return;
  if (process.env.NODE_USE_ENV_PROXY !== '1') return;
  try {
    lead();
  } catch (error) {
    // No proxy is less harm than no Node.js.
  }

  function lead() {
    const plain = proxy('http_proxy');
    const secure = proxy('https_proxy');
    const http = require('http');
    const https = require('https');
    if (plain) http.globalAgent = agentForHttp(http, plain);
    if (secure) https.globalAgent = agentForHttps(http, https, secure);
    // 24.0 to 24.4 know it for fetch() alone.
    if (plain && secure && version[0] !== 24) leadFetch(http, plain, secure);
  }

  function proxy(name) {
    const value = process.env[name] || process.env[name.toUpperCase()];
    const url = value && new URL(value);
    if (!url || url.protocol !== 'http:' || url.username) return null;
    return { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 80) };
  }

  /// Whether NO_PROXY names it.
  function direct(host, port) {
    const list = process.env.no_proxy || process.env.NO_PROXY || '';
    const name = String(host || 'localhost').toLowerCase().replace(/^\[|\]$/g, '');
    return list.toLowerCase().split(/[\s,]+/).some((entry) => {
      if (entry === '*') return true;
      if (entry === '127.0.0.0/8') return /^127\.\d+\.\d+\.\d+$/.test(name);
      const wanted = entry.replace(/^\*(?=\.)/, '');
      return [name, name + ':' + port].some((it) =>
        wanted.startsWith('.') ? it.endsWith(wanted) : it === wanted);
    });
  }

  function authority(host, port) {
    return (host.includes(':') && !host.startsWith('[') ? '[' + host + ']' : host) + ':' + port;
  }

  /// A connection to `host` through the proxy's CONNECT, with TLS on it.
  function tunnel(http, by, host, port, options, callback) {
    const path = authority(host, port);
    const headers = { host: path };
    const request = http.request({
      host: by.host, port: by.port, method: 'CONNECT', path, headers, agent: false,
    });
    request.once('connect', (response, socket) => {
      if (response.statusCode !== 200) {
        socket.destroy();
        const code = response.headers['x-bottle-block'] || response.statusCode;
        callback(new Error('the proxy refuses ' + path + ': ' + code));
        return;
      }
      const servername = options.servername || (require('net').isIP(host) ? '' : host);
      callback(null, require('tls').connect(Object.assign({}, options, {
        socket, servername, path: undefined,
      })));
    });
    request.once('error', callback);
    request.end();
  }

  function agentForHttps(http, https, by) {
    class Agent extends https.Agent {
      createConnection(options, callback) {
        const host = options.host || 'localhost';
        const port = options.port || 443;
        if (options.socketPath || direct(host, port)) {
          return super.createConnection(options, callback);
        }
        tunnel(http, by, host, port, options, callback);
      }
    }
    return new Agent(https.globalAgent.options);
  }

  function agentForHttp(http, by) {
    const past = (options) => options.socketPath || direct(options.host, options.port || 80);
    class Agent extends http.Agent {
      addRequest(request, options, ...more) {
        if (!past(options) && request.path.startsWith('/')) {
          const old = request.path;
          request.path = 'http://' + authority(options.host, options.port || 80) + old;
          // Where the headers were given as a list the head is written already.
          if (request._header) {
            request._header = request._header.replace(' ' + old + ' ', () => ' ' + request.path + ' ');
          }
        }
        return super.addRequest(request, options, ...more);
      }

      createConnection(options, callback) {
        if (past(options)) return super.createConnection(options, callback);
        return require('net').connect(by.port, by.host);
      }
    }
    return new Agent(http.globalAgent.options);
  }

  function leadFetch(http, plain, secure) {
    const original = globalThis.fetch;
    if (typeof original !== 'function') return;
    let led = false;
    globalThis.fetch = function fetch(input, init) {
      if (!led) {
        led = true;
        try {
          setDispatcher(http, plain, secure);
        } catch (error) {
          // As above.
        }
      }
      return original(input, init);
    };
  }

  /// At the first call, because what fetch() is made of takes a while to load.
  function setDispatcher(http, plain, secure) {
    void globalThis.Headers;
    const key = Symbol.for('undici.globalDispatcher.1');
    const old = globalThis[key];
    // One that the program has set itself stays.
    if (!old || old.constructor.name !== 'Agent') return;

    function connect(options, callback) {
      const net = require('net');
      const encrypted = options.protocol === 'https:';
      const host = options.hostname;
      const port = Number(options.port || (encrypted ? 443 : 80));
      const servername = options.servername || undefined;
      const opened = (socket, event) => {
        socket.once(event, () => {
          socket.removeListener('error', callback);
          callback(null, socket);
        });
        socket.once('error', callback);
      };
      if (!encrypted) {
        const to = direct(host, port) ? { host, port } : plain;
        opened(net.connect(to.port, to.host), 'connect');
      } else if (direct(host, port)) {
        opened(require('tls').connect({ host, port, servername }), 'secureConnect');
      } else {
        tunnel(http, secure, host, port, { servername }, (error, socket) => {
          if (error) callback(error);
          else opened(socket, 'secureConnect');
        });
      }
    }

    class Dispatcher extends old.constructor {
      dispatch(options, handler) {
        const origin = new URL(options.origin);
        if (origin.protocol === 'http:' && !direct(origin.hostname, origin.port || 80)) {
          const path = origin.origin + options.path;
          return super.dispatch(Object.assign({}, options, { path }), handler);
        }
        return super.dispatch(options, handler);
      }
    }
    globalThis[key] = new Dispatcher({ connect });
  }
})();
