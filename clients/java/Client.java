// The JDK's own HttpClient, as it comes: it asks every plain server for HTTP/2 (`Upgrade: h2c`).
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

public class Client {
    static final String URL = System.getenv("SAMPAN_URL") + "/v1/chat/completions";
    static final String MODEL = System.getenv("SAMPAN_MODEL");
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final String ASKED = "{\"role\":\"user\",\"content\":\"What is the capital of France?\"}";
    static final String TOOLS = "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":"
        + "{\"type\":\"object\",\"properties\":{\"city\":{\"enum\":[\"Paris\",\"Rome\"]}},\"required\":[\"city\"]}}}]";

    interface Step { void run() throws Exception; }

    static HttpRequest request(String messages, String more) {
        String body = "{\"model\":\"" + MODEL + "\",\"max_tokens\":60,\"messages\":[" + messages + "]" + more + "}";
        return HttpRequest.newBuilder(URI.create(URL))
            .header("content-type", "application/json")
            .header("authorization", "Bearer " + System.getenv("SAMPAN_KEY"))
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    }

    static String answer(String messages, String more) throws Exception {
        HttpResponse<String> answer = CLIENT.send(request(messages, more), HttpResponse.BodyHandlers.ofString());
        check(answer.statusCode() == 200, answer.statusCode() + " " + answer.body());
        return answer.body();
    }

    static void check(boolean holds, String found) {
        if (!holds) throw new AssertionError("got " + found);
    }

    static void chat() throws Exception {
        String answer = answer(ASKED, "");
        check(answer.contains("\"content\":\""), answer);
    }

    static void stream() throws Exception {
        List<String> lines = CLIENT.send(request(ASKED, ",\"stream\":true"), HttpResponse.BodyHandlers.ofLines())
            .body().filter(line -> !line.isEmpty()).collect(Collectors.toList());
        check(lines.get(lines.size() - 1).equals("data: [DONE]"), lines.toString());
    }

    static void toolsAndSecondTurn() throws Exception {
        String one = ",\"parallel_tool_calls\":false," + TOOLS;
        String called = answer(ASKED, one + ",\"tool_choice\":\"required\"");
        // The message as it came, found by its place: this file needs no JSON library.
        int start = called.indexOf("\"message\":") + "\"message\":".length();
        int end = start, depth = 0;
        do {
            char here = called.charAt(end++);
            depth += here == '{' ? 1 : here == '}' ? -1 : 0;
        } while (depth > 0);
        Matcher id = Pattern.compile("\"id\":\"(call_[^\"]*)\"").matcher(called);
        check(id.find(), called);
        String result = "{\"role\":\"tool\",\"tool_call_id\":\"" + id.group(1) + "\",\"content\":\"rain\"}";
        answer(ASKED + "," + called.substring(start, end) + "," + result, one);
    }

    static void drive(String name, Step step) {
        String error = "null";
        try {
            step.run();
        } catch (Throwable problem) {
            problem.printStackTrace();
            error = "\"" + problem.toString().replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ") + "\"";
        }
        System.out.println("{\"step\":\"" + name + "\",\"error\":" + error + "}");
    }

    public static void main(String[] arguments) {
        System.out.println("{\"version\":\"" + System.getProperty("java.version") + "\"}");
        drive("chat", Client::chat);
        drive("stream", Client::stream);
        drive("tools_and_second_turn", Client::toolsAndSecondTurn);
    }
}
