// The real Curator as the other side. It obeys lines of its standard input, and answers each with a line.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeSet;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryForever;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.UriSpec;

public class Curator {
    public static void main(String[] args) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(
            args[0], 4000, 2000, new RetryForever(100));
        client.start();
        // A reader of the strictest kind: any payload that is no null makes it fail.
        ServiceDiscovery<Void> discovery = ServiceDiscoveryBuilder.builder(Void.class)
            .client(client).basePath("/services").build();
        discovery.start();
        Map<String, ServiceInstance<Void>> own = new HashMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("ready");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            String answer = "done";
            switch (words[0]) {
                case "register":
                    ServiceInstance<Void> instance = ServiceInstance.<Void>builder()
                        .name(words[1]).id(words[2]).address("10.0.0.7")
                        .port(Integer.parseInt(words[3]))
                        .uriSpec(new UriSpec("{scheme}://{address}:{port}")).build();
                    own.put(words[2], instance);
                    discovery.registerService(instance);
                    break;
                case "unregister":
                    discovery.unregisterService(own.remove(words[1]));
                    break;
                case "list":
                    TreeSet<String> found = new TreeSet<>();
                    try {
                        for (ServiceInstance<Void> one : discovery.queryForInstances(words[1])) {
                            found.add(one.getId() + "=" + one.buildUriSpec() + "=" + one.isEnabled());
                        }
                        answer = String.join(",", found);
                    } catch (Exception error) {
                        answer = "failed " + error;
                    }
                    break;
                default:
                    answer = "unknown";
            }
            System.out.println(answer);
        }
        discovery.close();
        client.close();
    }
}
