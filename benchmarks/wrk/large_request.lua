-- A chat request of 256 KB. The model's name comes after the messages, as the OpenAI SDK writes it.
--     wrk -t1 -c16 -d5s -s benchmarks/wrk/large_request.lua http://127.0.0.1:9080
package.path = "benchmarks/wrk/?.lua;" .. package.path
local report = require("report")

local message = '{"role":"user","content":"' .. string.rep("How does it \\\"move\\\" a request? ", 128) .. '"},'
local last = '{"role":"user","content":"And then?"}'
local messages = string.rep(message, math.floor((256 * 1024 - 100) / #message))

wrk.method, wrk.path, wrk.headers = "POST", report.path, report.headers
wrk.body = '{"messages":[' .. messages .. last .. '],"model":"gpt-5.2"}'
done = report.done
