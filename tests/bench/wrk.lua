-- Sends what a load of loads.py asks for; its figures, in µs, are the last line of the output.
-- usage: wrk … -s wrk.lua URL -- BYTES-OF-BODY close|keep-alive

function init(args)
  local size = tonumber(args[1])
  if size > 0 then
    wrk.method = "POST"
    wrk.body = string.rep("x", size)
    wrk.headers["Content-Type"] = "application/octet-stream"
  end
  if args[2] == "close" then
    wrk.headers["Connection"] = "close"
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "mean": %f, "p50": %f, "p99": %f,'
      .. ' "errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d, "not 2xx": %d}}\n',
    summary.requests, summary.duration, latency.mean, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
