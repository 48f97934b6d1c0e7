# Buys from Turnstile: sends one purchase request, waits for its verdict and prints it.
#
#     gem install bunny
#     AMQP_URL=amqp://guest:guest@localhost:5672/%2f ruby buy.rb ITEM BUYER QUANTITY [REQUEST_ID]
#
# Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
require "bunny"
require "json"
require "securerandom"
require "timeout"

item, buyer, quantity, request_id = ARGV
abort "usage: ruby buy.rb ITEM BUYER QUANTITY [REQUEST_ID]" unless quantity
request_id ||= SecureRandom.uuid

connection = Bunny.new(ENV.fetch("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")).start
channel = connection.create_channel
channel.confirm_select
verdicts = Thread::Queue.new
replies = channel.queue("", exclusive: true)
replies.subscribe { |_, properties, body| verdicts << body if properties.correlation_id == request_id }

exchange = channel.exchange("purchase", passive: true)
exchange.on_return { verdicts << nil }
exchange.publish(
  JSON.generate(request_id: request_id, item: item, buyer: buyer, quantity: Integer(quantity)),
  routing_key: item, # requests for one item share a queue, which keeps them in order
  content_type: "application/json",
  persistent: true,
  mandatory: true,
  reply_to: replies.name,
  correlation_id: request_id,
  user_id: connection.user # RabbitMQ takes no other: the id and the order are this user's own
)
abort "the broker did not take it" unless channel.wait_for_confirms

verdict = Timeout.timeout(30) { verdicts.pop } or abort "no queue is bound to the exchange purchase"
connection.close
puts verdict
exit JSON.parse(verdict)["status"] == "reserved"
