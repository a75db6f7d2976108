-- What a team sends: of 20 requests 14 short ones, 5 streams of 20 chunks, 1 with a conversation of 32 KB.
--     wrk -t1 -c64 -d5s -s benchmarks/wrk/mixed.lua http://127.0.0.1:9080
package.path = "benchmarks/wrk/?.lua;" .. package.path
local report = require("report")

local short = report.chat(string.rep("Tell me how a gateway decides. ", 8))
local stream = report.chat("Count to twenty.", ',"stream":true,"max_tokens":20')
local long = report.chat(string.rep("And after that? ", 2048))
local turn, requests = 0, {}

function init(_)
    for place = 1, 20 do
        local body = place == 20 and long or place % 4 == 0 and stream or short
        requests[place] = wrk.format("POST", report.path, report.headers, body)
    end
end

function request()
    turn = turn % 20 + 1
    return requests[turn]
end

done = report.done
