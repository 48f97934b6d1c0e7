// Buys from Turnstile: sends one purchase request, waits for its verdict and prints it.
//
//     AMQP_URL=amqp://guest:guest@localhost:5672/%2f java -cp amqp-client.jar:slf4j-api.jar Buy.java ITEM BUYER QUANTITY [REQUEST_ID]
//
// Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
import com.rabbitmq.client.*;
import java.util.UUID;
import java.util.concurrent.*;

public class Buy {
    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 3) {
            System.err.println("usage: java Buy.java ITEM BUYER QUANTITY [REQUEST_ID]");
            System.exit(1);
        }
        String item = arguments[0], id = arguments.length > 3 ? arguments[3] : UUID.randomUUID().toString();
        String request = String.format("{\"request_id\":\"%s\",\"item\":\"%s\",\"buyer\":\"%s\",\"quantity\":%d}",
            id, item, arguments[1], Integer.parseInt(arguments[2]));

        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f"));
        String verdict;
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            channel.confirmSelect();
            CompletableFuture<String> replied = new CompletableFuture<>();
            channel.addReturnListener(returned -> replied.completeExceptionally(new Exception("no queue takes it")));
            String replies = channel.queueDeclare().getQueue(); // exclusive, named by the broker
            channel.basicConsume(replies, true, (tag, reply) -> {
                if (id.equals(reply.getProperties().getCorrelationId())) replied.complete(new String(reply.getBody(), "UTF-8"));
            }, tag -> {});
            AMQP.BasicProperties properties = MessageProperties.PERSISTENT_BASIC.builder()
                .contentType("application/json").replyTo(replies).correlationId(id)
                .userId(factory.getUsername()).build(); // the broker takes no other: id and order are this user's own
            // The routing key is the item: requests for one item share a queue, which keeps them in order.
            channel.basicPublish("purchase", item, true, properties, request.getBytes("UTF-8"));
            channel.waitForConfirmsOrDie(30_000);
            verdict = replied.get(30, TimeUnit.SECONDS);
        }
        System.out.println(verdict);
        System.exit(verdict.contains("\"status\":\"reserved\"") ? 0 : 1);
    }
}
